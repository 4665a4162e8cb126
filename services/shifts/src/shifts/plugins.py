"""The plugin point of shifts, and its built-in plugins."""

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.plugins import PluginContext, PluginPoint


class PointsPolicy(Protocol):
    """`callboard.points`: what credited seconds are worth."""

    def points(self, credited_seconds: int, *, training: bool) -> Fraction:
        """Exact points of one shift, 0 or more. Whole points are paid, the fraction is carried on."""


POINTS = PluginPoint("points", "credited seconds to points", PointsPolicy)


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Points = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=12)]
"""What a minute is worth; with more places, the fraction that is carried on would not fit into a document."""


class PerMinuteOptions(_Options):
    """plugins.options.per_minute: points for a credited minute."""

    points: Points = Decimal(1)
    training_points: Points = Decimal(0)


class PerMinute:
    """The same for each minute."""

    def __init__(self, context: PluginContext) -> None:
        options = context.options(PerMinuteOptions)
        self._per_second = Fraction(options.points) / 60
        self._per_training_second = Fraction(options.training_points) / 60

    def points(self, credited_seconds: int, *, training: bool) -> Fraction:
        """The seconds, times the points for one."""
        return credited_seconds * (self._per_training_second if training else self._per_second)


class Tier(_Options):
    """What a minute is worth from a minute of the shift on."""

    from_minute: int = Field(ge=0)
    points: Points


class TieredOptions(_Options):
    """plugins.options.tiered: tiers by rising `from_minute`, the first at 0."""

    tiers: tuple[Tier, ...] = Field(min_length=1)
    training_points: Points = Decimal(0)

    @model_validator(mode="after")
    def _rises_from_zero(self) -> "TieredOptions":
        starts = [tier.from_minute for tier in self.tiers]
        if starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError("expected tiers by rising from_minute, the first at 0")
        return self


class Tiered:
    """More, or less, for the later minutes of a shift."""

    def __init__(self, context: PluginContext) -> None:
        options = context.options(TieredOptions)
        self._tiers = [(tier.from_minute * 60, Fraction(tier.points)) for tier in options.tiers]
        self._training_points = Fraction(options.training_points)

    def points(self, credited_seconds: int, *, training: bool) -> Fraction:
        """The sum over the tiers that the shift reaches."""
        if training:
            return Fraction(credited_seconds, 60) * self._training_points
        ends = [start for start, _ in self._tiers[1:]] + [credited_seconds]
        return sum(
            (
                Fraction(max(0, min(end, credited_seconds) - start), 60) * points
                for (start, points), end in zip(self._tiers, ends, strict=True)
            ),
            Fraction(0),
        )
