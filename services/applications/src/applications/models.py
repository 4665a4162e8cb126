"""Documents, requests and answers of applications."""

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from common.actors import Actor, Moderator
from common.query import Id, Query

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def _answer(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("answer", "must be text")
    if not value.strip():
        raise PydanticCustomError("answer", "is blank")
    return _LONE_SURROGATES.sub("\ufffd", value)  # JSON may hold them; UTF-8 and BSON may not


Answer = Annotated[str, BeforeValidator(_answer), WithJsonSchema({"type": "string"})]
"""What an applicant answered to a question."""


class UploadQuery(Query):
    """The parameters of an upload."""

    id: Id


class Answers(BaseModel):
    """The body of an upload. Fields other than these are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    q1: Answer
    q2: Answer
    q3: Answer
    q4: Answer


class UploadAnswer(BaseModel):
    """An application that was taken; its text can be read at `url` until it expires."""

    status: Literal["success"] = "success"
    url: str


class ApproveQuery(Query):
    """The parameters of an approval: whose, and who decided."""

    id: Id
    moderator: Moderator


class ApproveAnswer(BaseModel):
    """An approval that was done."""

    status: Literal["success"] = "success"
    message: Literal["successfully ranked user"] = "successfully ranked user"


class Member(BaseModel):
    """A member, as accounts answers; `actor` is the moderator, resolved."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    username: str
    rankid: int
    actor: Actor | None = None


class Refusal(BaseModel):
    """When and why the rank of an approved applicant was refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime
    reason: str


class Attempted(BaseModel):
    """An attempt with an Idempotency-Key, as the approval keeps it; `id` is that of the attempt."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    fingerprint: str
    at: datetime


class Record(BaseModel):
    """The document of one application or approval; it stays when the text has expired.

    `moderator` and `moderator_via` name who approves as an `Actor` does; old records hold any name. `copy_url` is where
    Callboard shows the text too when `url` is at another company.

    A record that began with an approval was never submitted, and has neither `submitted_at` nor `url`. While it is
    `approving`, whoever holds the lease (`claimed_by`, until `claimed_until`) sets the rank; after that, anyone may take
    it over. `attempts` are the requests with an Idempotency-Key that began or took over this approval. Where the rank was
    refused, an application is `submitted` again, with the last `refusal`; older versions left it `failed`, which counts
    as `submitted`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True)

    id: str = Field(alias="_id")
    user: int
    status: Literal["submitted", "approving", "approved", "failed"]
    submitted_at: datetime | None = None
    url: str | None = None
    copy_url: str | None = None
    moderator: str | None = None
    moderator_via: str | None = None
    claimed_by: str | None = None
    claimed_until: datetime | None = None
    decided_at: datetime | None = None
    refusal: Refusal | None = None
    attempts: tuple[Attempted, ...] = ()

    @property
    def actor(self) -> Actor | None:
        """Who approves; None where an old record holds a name."""
        if self.moderator is None or not self.moderator.startswith(("roblox:", "discord:")):
            return None
        return Actor(by=self.moderator, via=self.moderator_via)
