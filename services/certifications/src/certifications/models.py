"""Documents, requests and answers of certifications."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from common.query import Id, Query, Text


class ChangeQuery(Query):
    """The parameters of a grant or a revocation; `moderator` is who decided, as a name or an id."""

    certification: Text
    username: Text
    moderator: Text


class ChangeAnswer(BaseModel):
    """A grant or a revocation that was done; `discord` is fit to show in a channel."""

    status: Literal["success"] = "success"
    discord: str


class Member(BaseModel):
    """A member, as accounts answers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    username: str
    rankid: int


class Record(BaseModel):
    """The document of one user and code; `version` is raised by one at each change."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user: int
    code: str
    held: bool
    version: int
    granted_by: str | None = None
    granted_at: datetime | None = None
    revoked_by: str | None = None
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
