"""Documents, requests and answers of accounts."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt
from pydantic_core import PydanticCustomError

from common.actors import Actor, ModeratorText
from common.group import Group
from common.query import Flag, Id, PersonQuery, Query
from common.text import clean


class ConnectQuery(Query):
    """The parameters of /connect; `training` says that the server is a training server."""

    place: Id
    id: Id
    training: Flag


class ConnectAnswer(BaseModel):
    """What a game server needs to know of a player who joins."""

    certifications: str
    auth: bool
    clearance: int


class ProfileQuery(PersonQuery):
    """The parameters of /profile."""


class ProfileAnswer(BaseModel):
    """What is known of a user; `_id` is absent for a user without an account."""

    status: Literal["success"] = "success"
    id: int
    account: str | None = Field(None, serialization_alias="_id")
    username: str
    points: int
    rank: str
    rankid: int
    cast: bool
    certifications: list[str]


class MemberQuery(PersonQuery):
    """The parameters of /internal/member.

    `fresh` asks for the rank as it is now, wherever it is kept, and `moderator` who that is.
    """

    fresh: Flag = False
    moderator: ModeratorText | None = None


class MemberAnswer(BaseModel):
    """A user, as the other services need it; `actor` is the moderator that was asked about."""

    id: int
    username: str
    rankid: int
    actor: Actor | None = None


class RankRequest(BaseModel):
    """The wish that a user has a rank of the ladder; a newer version's service may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user: Id
    rankid: StrictInt


@dataclass(frozen=True)
class Person:
    """Who a user is, as an identity plugin knows it; `username` in its true case.

    A plugin that remembers answers says when it read this one: a later read goes before it.
    """

    id: int
    username: str
    read_at: datetime | None = field(default=None, compare=False)


class HeldCertification(BaseModel):
    """Whether a certification is held, as of `version`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    held: bool
    version: int


class Account(BaseModel):
    """The document of one user; `username` and `rankid` are absent until a plugin told them.

    `username_read_at` and `rank_read_at` say when it last did. `rank_set_at` is when the rank was last set from here, and
    `ranks_before` are those that it replaced then, or shortly before.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    account: str = Field(validation_alias="_id", coerce_numbers_to_str=False)
    id: int
    username: str | None = None
    username_read_at: datetime | None = None
    points: int = 0
    rankid: int | None = None
    rank_read_at: datetime | None = None
    rank_set_at: datetime | None = None
    ranks_before: tuple[int, ...] = ()
    rank_version: int = 0
    certifications: dict[str, HeldCertification] = Field(default_factory=dict)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Account":
        """The account in a MongoDB document."""
        return cls.model_validate({**document, "_id": str(document["_id"])})

    def held(self, group: Group) -> list[str]:
        """The codes of the certifications held, in the order of the configuration."""
        known = self.certifications
        return [code for code in group.certifications if code in known and known[code].held]


class CompletedSync(BaseModel):
    """A walk through all members that came to its end.

    `missed` are those that the list lacked, though they are members, or that could not be read or asked for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    began_at: datetime
    finished_at: datetime
    seen: int
    changed: int
    missed: int


class Sync(BaseModel):
    """The document of the walks: the one under way, if `began_at` is there, and the last that was completed.

    `requested_at` is there while an operator waits for one that did not begin yet.
    `cursor` is where the next page begins, None once there is none. Whoever holds the lease (`claimed_by`,
    until `claimed_until`) walks on; `trouble` is what keeps it from doing so.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    requested_at: datetime | None = None
    began_at: datetime | None = None
    cursor: str | None = None
    seen: int = 0
    changed: int = 0
    missed: int = 0
    trouble: str | None = None
    claimed_by: str | None = None
    claimed_until: datetime | None = None
    last: CompletedSync | None = None


def _username(value: object) -> str:
    text = clean(str(value))
    if text is None or not 1 <= len(text) <= 50:
        raise PydanticCustomError("username", "expected 1 to 50 printable characters")
    return text


class PersonChange(BaseModel):
    """What an import says of a person; what it does not say stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    username: Annotated[str, BeforeValidator(_username)] | None = None
    rank: str | int | None = None
    discord: Id | None = None


class LocalPerson(PersonChange):
    """A person that the local plugins know; `rank` by name or rankid."""

    username: Annotated[str, BeforeValidator(_username)]
    rank: str | int = 0


class Configured(BaseModel):
    """What the configuration said of a person at the last start; `username` is None once another id got the name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    username: str | None = None
    rankid: int
    discord: int | None = None


class KnownPerson(BaseModel):
    """What the local plugins know of a person; `username` is None after the configuration gave it to another id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    username: str | None = None
    rankid: int
    discord: int | None = None
    configured: Configured | None = None
