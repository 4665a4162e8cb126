"""Roblox as its documents describe it: every path, shape and limit that Callboard relies on.

Open Cloud: https://create.roblox.com/docs/cloud/reference (groups and keys); the users API is the public one at
https://users.roblox.com/docs. What Roblox sends is validated, and fields that nobody needs are ignored.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, NamedTuple, Self, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from common.errors import Unavailable
from common.outgoing.providers import Answer, Budget, Complaints, Listed, Provider, Urgency, fit_to_show
from common.query import MAX_ID, Id

logger = logging.getLogger(__name__)

LARGEST_BATCH = 100
"""Users that one call of the users API may ask for."""

BASE_RANK = 1
"""The rank of the role that every member holds, and keeps."""
OWNER_RANK = 255
"""The rank of the group's owner, whose role nobody is given or loses."""

_PER_MINUTE = {
    "memberships": 300,
    "assignRole": 300,
    "unassignRole": 300,
    "roles": 300,
    "join-requests": 300,
    "accept": 100,
    "introspect": 60,  # not documented
}
"""Calls that the owner of a key may make, all their keys together."""
_USERS_PER_MINUTE = 100  # not documented; each asks for up to LARGEST_BATCH

M = TypeVar("M", bound=BaseModel)


def _last_part(value: object) -> object:
    """The id in a path such as "groups/7/roles/9"."""
    return value.rpartition("/")[2] if isinstance(value, str) else value


IdInPath = Annotated[Id, BeforeValidator(_last_part)]
Username = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Role(BaseModel):
    """A role of the group."""

    id: Annotated[int, BeforeValidator(_last_part)] = Field(
        ge=0, le=MAX_ID, validation_alias=AliasChoices("id", "path")
    )
    rank: Annotated[int, BeforeValidator(lambda value: value or 0)] = 0
    name: Annotated[str, BeforeValidator(lambda value: value or "")] = Field(
        "", validation_alias="displayName"
    )


class OfUser(BaseModel):
    """What the group has of one user."""

    user: IdInPath


class Membership(OfUser):
    """A member, and the ids of all roles that they hold; `highest` is one of them."""

    highest: Annotated[IdInPath | None, BeforeValidator(lambda value: value or None)] = Field(
        None, validation_alias="role"
    )
    listed: Annotated[frozenset[IdInPath], BeforeValidator(lambda value: value or ())] = Field(
        frozenset(), validation_alias="roles"
    )

    @property
    def roles(self) -> frozenset[int]:
        """The ids of all roles."""
        return self.listed if self.highest is None else self.listed | {self.highest}


Item = TypeVar("Item")
One = TypeVar("One", bound=OfUser)


class ListOf(BaseModel, Generic[Item]):
    """A list; `omitted` is how many of its items could not be read. If none could, the list cannot be read."""

    items: Sequence[Listed[Item]]
    omitted: int = 0

    @model_validator(mode="after")
    def _count(self, info: ValidationInfo) -> Self:
        omitted: list[str] = info.context or []
        self.omitted = len(omitted)
        if omitted and not self.items:
            raise ValueError(f"no item can be read: {omitted[0]}")
        return self


class UsersPage(ListOf[One]):
    """Some of a list; `next` is the token of the next page, empty after the last."""

    next: str | None = Field("", validation_alias="nextPageToken")


class MembershipsPage(UsersPage[Membership]):
    """Some members."""

    items: Sequence[Listed[Membership]] = Field(validation_alias="groupMemberships")


class Scope(BaseModel):
    """What a key may do with the resources of which groups and users ("*": all); where neither is named, of all."""

    name: str
    operations: Sequence[str] | None = None
    groups: Sequence[str | int] | None = Field(None, validation_alias="groupIds")
    users: Sequence[str | int] | None = Field(None, validation_alias="userIds")


class Introspection(BaseModel):
    """What Roblox tells of a key."""

    enabled: bool = False  # like any false value, it may be left out
    expired: bool = False
    expires: datetime | None = Field(None, validation_alias="expirationTimeUtc")
    scopes: Sequence[Scope] = ()


class User(BaseModel):
    """Somebody with an account at Roblox."""

    id: Id
    name: Username


class NamedUser(User):
    """Who answers to a name, which may be one that they had before."""

    requested: str = Field(validation_alias="requestedUsername")


class _RolesPage(BaseModel):
    roles: Sequence[Role] = Field(validation_alias="groupRoles")
    next: str | None = Field("", validation_alias="nextPageToken")


class _JoinRequests(UsersPage[OfUser]):
    items: Sequence[Listed[OfUser]] = Field(validation_alias="groupJoinRequests")


class _Nothing(BaseModel):
    pass


class _Users(ListOf[User]):
    items: Sequence[Listed[User]] = Field(validation_alias="data")


class _NamedUsers(ListOf[NamedUser]):
    items: Sequence[Listed[NamedUser]] = Field(validation_alias="data")


class _CloudError(BaseModel):
    """The error of an API behind the gateway: {"code": "NOT_FOUND", "message": ...}."""

    code: str
    message: str = ""


class _GatewayProblem(BaseModel):
    message: str = ""


class _GatewayError(BaseModel):
    """The error of the gateway, and of the users API: {"errors": [{"code": 0, "message": ...}]}."""

    errors: Sequence[_GatewayProblem]


class Refused(Exception):
    """Roblox will not do this, however often it is asked; the text is its own, made fit to be shown."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}".strip())
        self.code = code


class Introspected(NamedTuple):
    """What Roblox tells of the key, or why it does not; and what time it is there."""

    key: Introspection | None
    reason: str
    date: str | None


class Wait(NamedTuple):
    """Who waits for a call, and how many seconds at most."""

    urgency: Urgency
    seconds: float


class OpenCloud:
    """One group through Open Cloud; to be closed.

    Every call raises Unavailable when Roblox does not answer, is busy, or does not accept the key; and Refused.
    """

    def __init__(self, url: str, group: int, key: SecretStr, replicas: int) -> None:
        self._group = group
        self._key = key
        self._provider = Provider("Roblox", url, {"x-api-key": key.get_secret_value()})
        self._budgets = {call: Budget(most / replicas) for call, most in _PER_MINUTE.items()}
        self._complaints = Complaints()

    async def close(self) -> None:
        """End its connections."""
        await self._provider.close()

    async def membership(self, user: int, wait: Wait) -> Membership | None:
        """The membership of this user; None for one who is not in the group."""
        return await self._find("memberships", MembershipsPage, user, wait)

    async def memberships(self, token: str, wait: Wait) -> MembershipsPage:
        """The page of all members that begins at `token` ("" for the first)."""
        params = {"maxPageSize": 100} | ({"pageToken": token} if token else {})
        return await self._call("memberships", "GET", "memberships", MembershipsPage, wait, params=params)

    async def roles(self, wait: Wait) -> list[Role]:
        """All roles of the group; each page of them is waited for."""
        roles: dict[int, Role] = {}
        token: str | None = ""
        while True:
            params = {"maxPageSize": 20} | ({"pageToken": token} if token else {})
            page = await self._call("roles", "GET", "roles", _RolesPage, wait, params=params)
            known = len(roles)
            roles |= {role.id: role for role in page.roles}
            token = page.next
            if not roles or (token and len(roles) == known):
                logger.warning("Roblox answered with a page of roles that holds none")
                raise Unavailable("Roblox")
            if not token:
                return list(roles.values())

    async def has_join_request(self, user: int, wait: Wait) -> bool:
        """Whether this user waits to be let into the group."""
        return await self._find("join-requests", _JoinRequests, user, wait) is not None

    async def accept(self, user: int, wait: Wait) -> None:
        """Let a user in who waits for it."""
        await self._call("accept", "POST", f"join-requests/{user}:accept", _Nothing, wait, json={})

    async def assign(self, user: int, role: int, wait: Wait) -> Membership:
        """Give a member a role, and answer what they hold then; nothing happens when they hold it."""
        return await self._change("assignRole", user, role, wait)

    async def unassign(self, user: int, role: int, wait: Wait) -> None:
        """Take a role from a member; nothing happens when they do not hold it."""
        await self._change("unassignRole", user, role, wait)

    async def introspect(self, wait: Wait) -> Introspected:
        """What the key is and may do."""
        answer = await self._provider.call(
            "POST",
            "/api-keys/v1/introspect",
            budget=self._budgets["introspect"],
            urgency=wait.urgency,
            seconds=wait.seconds,
            json={"apiKey": self._key.get_secret_value()},
        )
        date = answer.headers.get("date")
        if answer.status >= 400:
            return Introspected(None, " ".join((str(answer.status), *_read_error(answer))), date)
        return Introspected(self._provider.read(Introspection, answer), "", date)

    async def _find(self, what: str, model: type[UsersPage[One]], user: int, wait: Wait) -> One | None:
        """What is there of this user; pages before it may be empty, and those of somebody else say nothing."""
        params: dict[str, Any] = {"filter": f"user == 'users/{user}'", "maxPageSize": 10}
        while True:
            page = await self._call(what, "GET", what, model, wait, params=params)
            for one in page.items:
                if one.user == user:
                    return one
            if not page.items and not page.next:
                return None
            if page.items or page.next == params.get("pageToken"):
                logger.warning("Roblox answered with %s of somebody else, or with none and no end", what)
                raise Unavailable("Roblox")
            params["pageToken"] = page.next

    async def _change(self, call: str, user: int, role: int, wait: Wait) -> Membership:
        body = {"role": f"groups/{self._group}/roles/{role}"}
        return await self._call(call, "POST", f"memberships/{user}:{call}", Membership, wait, json=body)

    async def _call(self, call: str, method: str, path: str, model: type[M], wait: Wait, **how: Any) -> M:
        answer = await self._provider.call(
            method,
            f"/cloud/v2/groups/{self._group}/{path}",
            budget=self._budgets[call],
            urgency=wait.urgency,
            seconds=wait.seconds,
            **how,
        )
        if answer.status < 400:
            return self._provider.read(model, answer)
        code, reason = _read_error(answer)
        if code in ("PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND"):
            raise Refused(code, reason)
        if answer.status in (401, 403):
            self._complain(answer.status, reason)
        else:
            logger.warning("Roblox answered %d to %s: %s %s", answer.status, call, code, reason)
        raise Unavailable("Roblox")

    def _complain(self, status: int, reason: str) -> None:
        if self._complaints.are_due():
            logger.error(
                "Roblox does not accept the key CALLBOARD_ROBLOX_KEY (%d %s): no rank can be read or set "
                'until it is mended; "callboard doctor" tells how',
                status,
                reason,
            )


class Users:
    """The public users API, which needs no key; to be closed.

    Every call raises Unavailable, and Refused when something in the whole batch is not to its liking.
    """

    def __init__(self, url: str, replicas: int) -> None:
        self._provider = Provider("Roblox users", url)
        self._budget = Budget(_USERS_PER_MINUTE / replicas)

    async def close(self) -> None:
        """End its connections."""
        await self._provider.close()

    async def by_usernames(self, usernames: Sequence[str], wait: Wait) -> ListOf[NamedUser]:
        """Who answers to these names, or did before; unknown ones are absent. LARGEST_BATCH at most."""
        return await self._post("usernames/users", {"usernames": usernames}, _NamedUsers, wait)

    async def by_ids(self, users: Sequence[int], wait: Wait) -> ListOf[User]:
        """Those of these users who exist. LARGEST_BATCH at most."""
        return await self._post("users", {"userIds": users}, _Users, wait)

    async def _post(self, path: str, asked: dict[str, Any], model: type[M], wait: Wait) -> M:
        answer = await self._provider.call(
            "POST",
            f"/v1/{path}",
            budget=self._budget,
            urgency=wait.urgency,
            seconds=wait.seconds,
            json={**asked, "excludeBannedUsers": False},
        )
        if answer.status < 400:
            return self._provider.read(model, answer)
        code, reason = _read_error(answer)
        if answer.status == 400:
            raise Refused(code, reason)
        logger.warning("Roblox answered %d to %s: %s", answer.status, path, reason)
        raise Unavailable("Roblox users")


def _read_error(answer: Answer) -> tuple[str, str]:
    """The code ("" where the gateway answered, or what nobody knows) and the reason, fit to be shown."""
    try:
        error = _CloudError.model_validate_json(answer.body)
        return fit_to_show(error.code), fit_to_show(error.message)
    except ValidationError:
        pass
    try:
        problems = _GatewayError.model_validate_json(answer.body).errors
    except ValidationError:
        return "", ""
    return "", fit_to_show("; ".join(problem.message for problem in problems))
