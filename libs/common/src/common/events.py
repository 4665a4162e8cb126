"""Every event: a fact in the past tense, with all that a consumer needs.

Fields are only ever added, and optional; anything else is a new class with `.v2` in its subject. Order is
not guaranteed and everything may come again, so a fact that adds is applied once by its `id`, and a fact
that sets carries the `version` of its record: the newest wins.
"""

from datetime import UTC, datetime
from typing import ClassVar

from bson import ObjectId
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from common.actors import Actor
from common.errors import InvalidEvent


def new_id() -> str:
    """A new id for an event: unique, and in the order of time, so that indexes grow at their end."""
    return str(ObjectId())


class Event(BaseModel):
    """What all events have."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    SUBJECT: ClassVar[str]

    id: str = Field(default_factory=new_id, min_length=1, max_length=64)
    occurred_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class ShiftLogged(Event):
    """A shift was recorded; its `id` is the shift's. `points` are the whole points it pays, often 0."""

    SUBJECT: ClassVar[str] = "callboard.shifts.shift_logged.v1"

    user: int
    place: int
    server: str
    training: bool
    started_at: int
    ended_at: int
    duration: int
    credited_seconds: int
    points: int
    flags: tuple[str, ...] = ()
    logged_by: str


class CertificationGranted(Event):
    """A certification is held from now on; `version` rises with each change of this user and code."""

    SUBJECT: ClassVar[str] = "callboard.certifications.certification_granted.v1"

    user: int
    username: str
    certification: str
    version: int = Field(ge=1)
    moderator: str
    actor: Actor | None = None


class CertificationRevoked(Event):
    """A certification is no longer held; `version` rises with each change of this user and code."""

    SUBJECT: ClassVar[str] = "callboard.certifications.certification_revoked.v1"

    user: int
    username: str
    certification: str
    version: int = Field(ge=1)
    moderator: str
    actor: Actor | None = None


class ApplicationSubmitted(Event):
    """An application was uploaded and can be read at `url`; its text is in no event.

    `copy_url` is where this Callboard shows it as well, when `url` is elsewhere.
    """

    SUBJECT: ClassVar[str] = "callboard.applications.application_submitted.v1"

    application: str
    user: int
    url: str
    copy_url: str | None = None


class ApplicationApproved(Event):
    """An applicant was made a trainee."""

    SUBJECT: ClassVar[str] = "callboard.applications.application_approved.v1"

    application: str
    user: int
    username: str
    rank: str
    moderator: str
    actor: Actor | None = None


class RankChanged(Event):
    """A member's rank is another one from now on; `version` rises with each change of this user's rank."""

    SUBJECT: ClassVar[str] = "callboard.accounts.rank_changed.v1"

    user: int
    username: str | None
    rank: str
    rankid: int
    version: int = Field(ge=1)


EVENTS: tuple[type[Event], ...] = (
    ShiftLogged,
    CertificationGranted,
    CertificationRevoked,
    ApplicationSubmitted,
    ApplicationApproved,
    RankChanged,
)


def parse_event(model: type[Event], payload: bytes) -> Event:
    """The event in `payload`. Raises InvalidEvent that says what is wrong with it."""
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise InvalidEvent("; ".join(reasons)) from error
