"""Documents, requests and answers of certifications."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from common.actors import Actor, Moderator
from common.query import Id, PersonQuery, Query, Text


class ChangeQuery(PersonQuery):
    """The parameters of a grant or a revocation: whose, and who decided."""

    certification: Text
    moderator: Moderator


class ChangeAnswer(BaseModel):
    """A grant or a revocation that was done; `discord` is fit to show in a channel."""

    status: Literal["success"] = "success"
    discord: str


class Done(BaseModel):
    """A grant or a revocation that was done, of whom and by an earlier request or by this one."""

    model_config = ConfigDict(frozen=True)

    username: str
    code: str
    is_replay: bool = False


class Member(BaseModel):
    """A member, as accounts answers; `actor` is the moderator, resolved."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    username: str
    rankid: int
    actor: Actor | None = None


class Record(BaseModel):
    """The document of one user and code; `version` is raised by one at each change.

    Who did it is named as an `Actor` is, in two fields; old records hold any name, and no `via`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    user: int
    code: str
    held: bool
    version: int
    granted_by: str | None = None
    granted_via: str | None = None
    granted_at: datetime | None = None
    revoked_by: str | None = None
    revoked_via: str | None = None
    revoked_at: datetime | None = None

    @property
    def changed_at(self) -> datetime | None:
        """When it was last granted or revoked; None where that was not recorded."""
        return self.granted_at if self.held else self.revoked_at


class HeldQuery(Query):
    """The parameters of the internal question which certifications a user holds."""

    user: Id


class HeldCertification(BaseModel):
    """Whether a certification is held, as of `version`; `changed_at` is when that began, where it is known."""

    held: bool
    version: int
    changed_at: datetime | None = None


class HeldAnswer(BaseModel):
    """All that is known of a user, revoked certifications included."""

    certifications: dict[str, HeldCertification]
