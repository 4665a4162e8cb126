"""Limits: how long is waited, how many are taken at a time, how often is looked; one frozen model for each room.

They are part of the settings, so that a test passes its own and a slow machine waits longer (`CALLBOARD_PATIENCE`).
"""

from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

_WAIT = "is longer on a slow machine"

Wait = Annotated[float, Field(ge=0), _WAIT]
"""Seconds that are waited for a machine's work, which patience multiplies; not those that something is remembered."""


class Limits(BaseModel):
    """The limits of one room, with defaults that fit together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def with_patience(cls, factor: float) -> Self:
        """The defaults, each `Wait` multiplied."""
        fields = cls.model_fields.items()
        return cls(**{name: field.default * factor for name, field in fields if _WAIT in field.metadata})


def must_be_below(shorter: tuple[str, float], longer: tuple[str, float]) -> None:
    """For a validator: two limits (what they are for, in seconds) of which the first must end before the second.

    Raises ValueError with a sentence.
    """
    if shorter[1] >= longer[1]:
        (what, seconds), (limit, most) = shorter, longer
        raise ValueError(f"{what} may take {seconds:g} s, which must be below {limit} of {most:g} s")


L = TypeVar("L", bound=Limits)


def limits_of(room: type[L]) -> Any:
    """A field of the settings that holds a room's limits, after the field `patience`."""
    return Field(default_factory=lambda settings: room.with_patience(settings["patience"]))
