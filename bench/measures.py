"""Rounds, and what they say together: medians with their spread, ratios against the goals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, NamedTuple

Sign = Literal["<=", ">="]


class Spread(NamedTuple):
    """The median of the rounds, the least and the most."""

    median: float
    least: float
    most: float


class Value(NamedTuple):
    """One figure of the rounds: what was measured, of which candidate, and which of its numbers."""

    measure: str
    candidate: str
    number: str


@dataclass(frozen=True)
class Line:
    """One line of the table: a figure, or its ratio to another, and the goal for it if there is one."""

    name: str
    top: Value
    bottom: Value | None = None
    sign: Sign = ">="
    goal: float | None = None
    unit: str = ""

    def is_reached(self, spread: Spread) -> bool | None:
        """Whether the median reaches the goal."""
        if self.goal is None:
            return None
        return spread.median >= self.goal if self.sign == ">=" else spread.median <= self.goal


@dataclass
class Measures:
    """Every round, by what was measured and by candidate, each with its numbers by name."""

    rounds: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, measure: str, candidate: str, numbers: Mapping[str, float]) -> None:
        """Note one round."""
        self.rounds.setdefault(measure, {}).setdefault(candidate, []).append(dict(numbers))

    def values(self, value: Value) -> list[float]:
        """One number of each round; nothing when it was not measured."""
        rounds = self.rounds.get(value.measure, {}).get(value.candidate, [])
        return [numbers[value.number] for numbers in rounds if value.number in numbers]

    def median(self, value: Value) -> float | None:
        """The median of the rounds."""
        values = self.values(value)
        return median(values) if values else None

    def spread(self, line: Line) -> Spread | None:
        """The line's figure; a ratio is taken round by round, as those of one round ran side by side."""
        values = self.values(line.top)
        if line.bottom is not None:
            below = self.values(line.bottom)
            values = [one / other for one, other in zip(values, below, strict=False) if other]
        return Spread(median(values), min(values), max(values)) if values else None
