"""Documents, requests and answers of shifts. Times are whole Unix seconds."""

from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from common import tracing
from common.events import ShiftLogged, new_id
from common.query import Flag, Id, Moment, Query, Seconds, Text

CLOCK_SECONDS = 60
"""By how much two clocks may differ before a shift is flagged `clock`."""


class LogQuery(Query):
    """The parameters of /log; `ended_at` and `now` in Unix seconds, `duration` in seconds."""

    id: Id
    place: Id
    duration: Seconds
    training: Flag
    server: Text
    ended_at: Moment | None = Field(
        None,
        description="When the shift ended, by the game server's clock, at most 7 days ago; kept with each retry. "
        "Without it, the shift ends when the request arrives.",
    )
    now: Moment | None = Field(
        None,
        description="The game server's clock when it sends this request. It corrects `ended_at`, so that a wrong "
        "clock costs no shift; without `ended_at` it is ignored.",
    )


class LogAnswer(BaseModel):
    """A shift that is recorded, by this request or by an earlier one that it repeats."""

    status: Literal["success"] = "success"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a game server says somebody worked; `id` becomes the shift's, should it be a new one.

    The interval is [started_at, ended_at) by our clock. `given_ended_at` is what the request said, if it did, and
    `sent_at` when it was sent by the sender's clock. `traceparent` is the request's.
    """

    user: int
    place: int
    server: str
    training: bool
    duration: int
    given_ended_at: int | None
    arrived_at: int
    key: str
    idempotency_key: str | None
    is_certified: bool
    sent_at: int | None = None
    id: str = field(default_factory=new_id)
    traceparent: str | None = field(default_factory=tracing.traceparent.get)

    @property
    def ended_at(self) -> int:
        """The end: as given, corrected by what the two clocks differ, but no later than the arrival."""
        if self.given_ended_at is None:
            return self.arrived_at
        ahead = 0 if self.sent_at is None else self.sent_at - self.arrived_at
        return min(self.given_ended_at - ahead, self.arrived_at)

    @property
    def started_at(self) -> int:
        """The start: the duration before the end."""
        return self.ended_at - self.duration

    @property
    def is_moved(self) -> bool:
        """Whether the end is another than the given one, by more than clocks usually differ."""
        return self.given_ended_at is not None and abs(self.ended_at - self.given_ended_at) > CLOCK_SECONDS

    @property
    def has_wrong_clock(self) -> bool:
        """Whether the sender's clock and ours differ by more than clocks usually do."""
        if self.given_ended_at is None:
            return False
        return self.is_moved or (
            self.sent_at is not None and abs(self.sent_at - self.arrived_at) > CLOCK_SECONDS
        )


@dataclass(frozen=True, slots=True)
class Shift:
    """A recorded shift; `credited_seconds` are those that no earlier recorded shift covers.

    `number` counts the person's shifts in the order of recording, `exact_points` is what the points policy answered and
    `carried` the fraction that the shift before left, both as text like "21/2": what proves the carry. Shifts of older
    versions have none of the three.
    """

    id: str
    user: int
    place: int
    server: str
    training: bool
    duration: int
    given_ended_at: int | None
    started_at: int
    ended_at: int
    credited_seconds: int
    points: int
    flags: tuple[str, ...]
    key: str
    idempotency_key: str | None
    logged_at: datetime
    number: int | None = None
    exact_points: str | None = None
    carried: str | None = None

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Shift":
        """The shift in a MongoDB document; what another version knows besides is ignored."""
        values = {name: document[name] for name in cls.__slots__ if name in document}
        return cls(
            **{"id": document["_id"], "given_ended_at": None, "idempotency_key": None, **values}
            | {"flags": tuple(document.get("flags", ()))}
        )

    def to_document(self) -> dict[str, Any]:
        """The shift as MongoDB keeps it; without an Idempotency-Key, that field is absent."""
        document = {name: getattr(self, name) for name in self.__slots__ if name != "id"}
        for name in ("idempotency_key", "number", "exact_points", "carried"):
            if document[name] is None:
                del document[name]
        return {"_id": self.id, **document}

    def logged(self) -> ShiftLogged:
        """The event of this shift, when it is new; its id is the shift's."""
        return ShiftLogged(
            id=self.id,
            occurred_at=self.logged_at,
            user=self.user,
            place=self.place,
            server=self.server,
            training=self.training,
            started_at=self.started_at,
            ended_at=self.ended_at,
            duration=self.duration,
            credited_seconds=self.credited_seconds,
            points=self.points,
            flags=self.flags,
            logged_by=self.key,
        )


@dataclass(frozen=True, slots=True)
class Timesheet:
    """What serialises one person's shifts: their number, and the fraction of a point that is carried on."""

    user: int
    carry: Fraction = Fraction(0)
    shifts: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is recorded that bears on a batch of claims.

    `near` are by user the shifts that may overlap or equal a claim of the same user, and some more; `used`
    are those that the claims' Idempotency-Keys were used for, by key name and Idempotency-Key; `sheets` are
    the timesheets by user, an empty one where there is none.
    """

    near: dict[int, list[Shift]]
    used: dict[tuple[str, str | None], Shift]
    sheets: dict[int, Timesheet]


class HeldCertification(BaseModel):
    """Whether a certification is held, as of `version`; `changed_at` is when that began, where it is known."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    held: bool
    version: int
    changed_at: AwareDatetime | None = None

    def was_held_after(self, moment: int) -> bool:
        """Whether it is held, or was still held after this moment (Unix s)."""
        return self.held or (self.changed_at is not None and self.changed_at.timestamp() > moment)
