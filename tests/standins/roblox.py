"""Roblox: Open Cloud's groups and keys, and the users API, of one group.

As a process of its own, for runs of whole systems: `python -m tests.standins.roblox --port 9100`. Its people
are Player_1, Player_2 and so on, spread over the roles; its key is KEY.
"""

import argparse
import asyncio
import base64
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from tests.standins import Standin, serving
from tests.support import unique_id

KEY = "a-key-of-the-stand-in"
LADDER = {
    "University Student": 10,
    "Cast Member": 20,
    "Senior Cast Member": 30,
    "Manager": 40,
    "Executive": 50,
}
"""The ranks of the shipped configuration that a role stands for."""

_SINCE = "2024-01-01T00:00:00Z"
_STATUS = {
    "INVALID_ARGUMENT": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}


@dataclass
class Key:
    """An Open Cloud key, and what it may do in which groups; without any, in all, and nothing is said of them."""

    owner: int = 1
    operations: set[str] = field(default_factory=lambda: {"read", "write"})
    groups: list[str] | None = field(default_factory=lambda: ["*"])
    is_enabled: bool = True
    expires: datetime | None = None

    @property
    def is_expired(self) -> bool:
        """Whether it was valid once."""
        return self.expires is not None and self.expires < datetime.now(UTC)


@dataclass
class Role:
    """A role of the group."""

    id: int
    rank: int
    name: str


@dataclass
class User:
    """Somebody with an account at Roblox; `previous` are the names that they had before."""

    id: int
    name: str
    previous: Sequence[str] = ()


class _Error(Exception):
    """An answer in the shape of Open Cloud v2."""

    def __init__(self, code: str, message: str) -> None:
        self.answer = web.json_response({"code": code, "message": message}, status=_STATUS[code])


def _gateway_error(status: int, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": 0, "message": message}]}, status=status)


Handler = Callable[[web.Request], Any]


class Roblox(Standin):
    """One group, whose roles are Guest (0), Member (1, the base role of everyone), LADDER, and Owner (255)."""

    def __init__(self) -> None:
        super().__init__()
        self.group = unique_id()
        self.keys = {KEY: Key()}
        self.roles: dict[int, Role] = {}
        self.guest = self.add_role("Guest", 0)
        self.base = self.add_role("Member", 1)
        self.ladder = {name: self.add_role(name, rank) for name, rank in LADDER.items()}
        self.owner = self.add_role("Owner", 255)
        self.users: dict[int, User] = {}
        self.members: dict[int, set[int]] = {}
        """The roles that each member holds, besides the base role; in the order in which they joined."""
        self.join_requests: set[int] = set()
        self.stale: dict[int, set[int]] | None = None
        """What memberships are read from instead of `members`, if anything: see `keep_copy`."""
        self.limits: dict[str, int] = {}
        """Requests that may be made in each window, by the name of the call: see `routes`."""
        self.window_seconds = 60.0
        self.largest_page = 100
        self.clock_ahead = timedelta()
        """By how much its Date header is ahead."""
        self._windows: dict[str, tuple[float, int]] = {}

    # ------------------------------------------------------------------------------------ what a test sets

    def add_role(self, name: str, rank: int) -> Role:
        """A further role."""
        role = Role(unique_id(), rank, name)
        self.roles[role.id] = role
        return role

    def add_user(self, name: str = "", *, user: int | None = None, previous: Sequence[str] = ()) -> User:
        """Somebody who is not in the group."""
        number = unique_id() if user is None else user
        one = User(number, name or f"Player_{number}", previous)
        self.users[number] = one
        return one

    def add_member(self, *roles: str | Role, user: int | None = None) -> User:
        """Somebody in the group with these roles, by name or as they are, and the base role."""
        one = self.users.get(user or 0) or self.add_user(user=user)
        self.members[one.id] = {self.role(role).id for role in roles}
        return one

    def keep_copy(self) -> None:
        """From now on, memberships are read from a copy of what they are now, until `stale` is None."""
        self.stale = {user: set(roles) for user, roles in self.members.items()}

    def role(self, role: str | Role) -> Role:
        """The role of this name."""
        return (
            role if isinstance(role, Role) else next(one for one in self.roles.values() if one.name == role)
        )

    def holds(self, user: int) -> set[str]:
        """The names of the roles that a member holds, besides the base role."""
        return {self.roles[role].name for role in self.members[user]}

    # ------------------------------------------------------------------------------------- what it answers

    def routes(self) -> Iterable[web.RouteDef]:
        """The calls; the limited ones by the names that `limits` takes."""
        group = "/cloud/v2/groups/{group}"
        yield web.get(f"{group}/memberships", self._cloud("memberships", "", self._list_memberships))
        yield web.post(
            f"{group}/memberships/{{member}}:assignRole", self._cloud("assign", "write", self._assign)
        )
        yield web.post(
            f"{group}/memberships/{{member}}:unassignRole", self._cloud("unassign", "write", self._unassign)
        )
        yield web.get(f"{group}/roles", self._cloud("roles", "", self._list_roles))
        yield web.get(
            f"{group}/join-requests", self._cloud("join-requests", "read", self._list_join_requests)
        )
        yield web.post(f"{group}/join-requests/{{user}}:accept", self._cloud("accept", "write", self._accept))
        yield web.get("/cloud/v2/users/{user}", self._cloud("user", "", self._user))
        yield web.post("/api-keys/v1/introspect", self._limited("introspect", self._introspect))
        yield web.post("/v1/usernames/users", self._limited("usernames", self._by_usernames))
        yield web.post("/v1/users", self._limited("users", self._by_ids))
        yield web.get("/v1/users/{user}", self._limited("users", self._by_id))

    def failure(self, status: int) -> web.Response:
        """In the gateway's shape when it is broken, else in that of Open Cloud v2."""
        if status == 500:
            return _gateway_error(500, "InternalServerError")
        code = next(code for code, known in _STATUS.items() if known == status)
        return web.json_response({"code": code, "message": f"error {status}"}, status=status)

    def _limited(self, call: str, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            counted = self._count(call)
            if counted.get("x-ratelimit-remaining") == "-1":
                response = self.failure(429)
                counted |= {"x-ratelimit-remaining": "0", "retry-after": counted["x-ratelimit-reset"]}
            else:
                try:
                    response = await handler(request)
                except _Error as error:
                    response = error.answer
            response.headers.update(counted)
            ahead = datetime.now(UTC) + self.clock_ahead
            response.headers["Date"] = f"{ahead:%a, %d %b %Y %H:%M:%S} GMT"
            return response

        return answer

    def _count(self, call: str) -> dict[str, str]:
        """The headers that tell of the call's limit; -1 remain when it is reached."""
        if call not in self.limits:
            return {}
        now, most = time.monotonic(), self.limits[call]
        ends, used = self._windows.get(call, (0.0, 0))
        if now >= ends:
            ends, used = now + self.window_seconds, 0
        used = min(used + 1, most + 1)
        self._windows[call] = ends, used
        return {
            "x-ratelimit-limit": f"{most}, {most};w={self.window_seconds:g}",
            "x-ratelimit-remaining": str(most - used),
            "x-ratelimit-reset": f"{ends - now:.3f}",
        }

    def _cloud(self, call: str, operation: str, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            key = self.keys.get(request.headers.get("x-api-key", ""))
            if key is None or not key.is_enabled or key.is_expired:
                return _gateway_error(401, "Invalid API Key")
            group = request.match_info.get("group", "")
            if group and group != str(self.group):
                raise _Error("NOT_FOUND", "The group does not exist.")
            reached = ["*"] if key.groups is None else key.groups
            if operation and (operation not in key.operations or not {"*", group} & set(reached)):
                raise _Error("PERMISSION_DENIED", f"The key lacks the scope group:{operation}.")
            response: web.Response = await handler(request)
            return response

        return self._limited(call, answer)

    async def _list_memberships(self, request: web.Request) -> web.Response:
        members = self.members if self.stale is None else self.stale
        users: Iterable[int] = members
        if by := request.query.get("filter"):
            users = [user for user in users if self._matches(by, user)]
        chosen, token = self._page(request, list(users), self.largest_page)
        return web.json_response(
            {
                "groupMemberships": [self._membership(user, members[user]) for user in chosen],
                "nextPageToken": token,
            }
        )

    def _matches(self, by: str, user: int) -> bool:
        if found := re.fullmatch(r"user == 'users/(\d+)'", by):
            return user == int(found[1])
        if found := re.fullmatch(rf"role == 'groups/{self.group}/roles/(\d+)'", by):
            return int(found[1]) in {*self.members[user], self.base.id}
        raise _Error("INVALID_ARGUMENT", "The filter is invalid.")

    def _membership(self, user: int, roles: set[int] | None = None) -> dict[str, Any]:
        roles = self.members[user] if roles is None else roles
        held = sorted({*roles, self.base.id}, key=lambda role: -self.roles[role].rank)
        paths = [f"groups/{self.group}/roles/{role}" for role in held]
        return {
            "path": f"groups/{self.group}/memberships/{_membership_id(user)}",
            "createTime": _SINCE,
            "updateTime": _SINCE,
            "user": f"users/{user}",
            "role": paths[0],
            "roles": paths,
        }

    async def _assign(self, request: web.Request) -> web.Response:
        user, role = await self._member_and_role(request)
        if role.id != self.base.id:
            self.members[user].add(role.id)
        return web.json_response(self._membership(user))

    async def _unassign(self, request: web.Request) -> web.Response:
        user, role = await self._member_and_role(request)
        if role.id == self.base.id:
            raise _Error("INVALID_ARGUMENT", "The base role cannot be unassigned.")
        self.members[user].discard(role.id)
        return web.json_response(self._membership(user))

    async def _member_and_role(self, request: web.Request) -> tuple[int, Role]:
        given = request.match_info["member"]
        user = next((one for one in self.members if given in (str(one), _membership_id(one))), None)
        if user is None:
            raise _Error("NOT_FOUND", "The membership does not exist.")
        path = str((await request.json()).get("role"))
        role = self.roles.get(int(path.rpartition("/")[2] or 0))
        if role is None or path != f"groups/{self.group}/roles/{role.id}":
            raise _Error("INVALID_ARGUMENT", "The role is invalid.")
        if role.rank in (self.guest.rank, self.owner.rank):
            raise _Error("INVALID_ARGUMENT", f"The role {role.name} cannot be assigned or unassigned.")
        if user == self.keys[request.headers["x-api-key"]].owner:
            raise _Error("PERMISSION_DENIED", "You cannot change your own role.")
        return user, role

    async def _list_roles(self, request: web.Request) -> web.Response:
        chosen, token = self._page(request, sorted(self.roles), 20)
        roles = [
            {
                "path": f"groups/{self.group}/roles/{role.id}",
                "createTime": _SINCE,
                "updateTime": _SINCE,
                "id": str(role.id),
                "displayName": role.name,
                "description": "",
                "rank": role.rank,
                "memberCount": sum(role.id in held for held in self.members.values()),
                "permissions": {},
            }
            for role in (self.roles[one] for one in chosen)
        ]
        return web.json_response({"groupRoles": roles, "nextPageToken": token})

    async def _list_join_requests(self, request: web.Request) -> web.Response:
        wanted = re.fullmatch(r"user == 'users/(\d+)'", request.query.get("filter", ""))
        users = sorted(user for user in self.join_requests if wanted is None or user == int(wanted[1]))
        chosen, token = self._page(request, users, 20)
        requests = [
            {
                "path": f"groups/{self.group}/join-requests/{user}",
                "createTime": _SINCE,
                "user": f"users/{user}",
            }
            for user in chosen
        ]
        return web.json_response({"groupJoinRequests": requests, "nextPageToken": token})

    async def _accept(self, request: web.Request) -> web.Response:
        user = int(request.match_info["user"])
        if user not in self.join_requests:
            raise _Error("NOT_FOUND", "The join request does not exist.")
        self.join_requests.remove(user)
        self.members[user] = set()
        return web.json_response({})

    def _page(self, request: web.Request, users: Sequence[int], largest: int) -> tuple[list[int], str]:
        """The page that the request asks for, and the token of the next; a token is where the last page ended."""
        size = min(int(request.query.get("maxPageSize", 10)), largest)
        begin = 0
        if token := request.query.get("pageToken"):
            found = re.fullmatch(r"after (\d+)", _decoded(token))
            if found is None or int(found[1]) > len(users):
                raise _Error("INVALID_ARGUMENT", "The page token is invalid.")
            begin = int(found[1])
        end = begin + size
        next_token = base64.b64encode(f"after {end}".encode()).decode() if end < len(users) else ""
        return list(users[begin:end]), next_token

    async def _user(self, request: web.Request) -> web.Response:
        user = self.users.get(int(request.match_info["user"]))
        if user is None:
            raise _Error("NOT_FOUND", "The user does not exist.")
        return web.json_response(
            {
                "path": f"users/{user.id}",
                "createTime": _SINCE,
                "id": str(user.id),
                "name": user.name,
                "displayName": user.name,
            }
        )

    async def _introspect(self, request: web.Request) -> web.Response:
        key = self.keys.get(str((await request.json()).get("apiKey")))
        if key is None:
            return _gateway_error(401, "Invalid API Key")
        scope: dict[str, Any] = {"name": "group", "operations": sorted(key.operations)}
        if key.groups is not None:
            scope["groupIds"] = key.groups
        told: dict[str, Any] = {
            "name": "callboard",
            "authorizedUserId": key.owner,
            "scopes": [scope] if key.operations else [],
            "enabled": key.is_enabled,
            "expired": key.is_expired,
        }
        if key.expires is not None:
            told["expirationTimeUtc"] = f"{key.expires:%Y-%m-%dT%H:%M:%S.000Z}"
        return web.json_response(told)

    async def _by_usernames(self, request: web.Request) -> web.Response:
        asked: list[str] = (await request.json())["usernames"]
        if len(asked) > 100:
            return _users_error(400, 2, "Too many usernames.")
        found = [(name, self._named(name)) for name in asked]
        return web.json_response(
            {"data": [{"requestedUsername": name} | _known(user) for name, user in found if user]}
        )

    def _named(self, name: str) -> User | None:
        wanted = name.lower()
        users = self.users.values()
        return next((one for one in users if one.name.lower() == wanted), None) or next(
            (one for one in users if wanted in (previous.lower() for previous in one.previous)), None
        )

    async def _by_ids(self, request: web.Request) -> web.Response:
        asked: list[int] = (await request.json())["userIds"]
        if len(asked) > 200:
            return _users_error(400, 1, "Too many ids.")
        return web.json_response(
            {"data": [_known(self.users[user]) for user in dict.fromkeys(asked) if user in self.users]}
        )

    async def _by_id(self, request: web.Request) -> web.Response:
        user = self.users.get(int(request.match_info["user"]))
        if user is None:
            return _users_error(404, 3, "The user id is invalid.")
        return web.json_response(_known(user) | {"isBanned": False, "created": _SINCE, "description": ""})


def _membership_id(user: int) -> str:
    return base64.urlsafe_b64encode(str(user).encode()).decode().rstrip("=")


def _decoded(token: str) -> str:
    try:
        return base64.b64decode(token, validate=True).decode()
    except ValueError:
        return ""


def _known(user: User) -> dict[str, Any]:
    return {"hasVerifiedBadge": False, "id": user.id, "name": user.name, "displayName": user.name}


def _users_error(status: int, code: int, message: str) -> web.Response:
    error = {"code": code, "message": message, "userFacingMessage": "Something went wrong"}
    return web.json_response({"errors": [error]}, status=status)


@asynccontextmanager
async def roblox(port: int = 0) -> AsyncIterator[Roblox]:
    """A group without members, whose key is KEY."""
    standin = Roblox()
    async with serving(standin, port):
        yield standin


async def _serve(arguments: argparse.Namespace) -> None:
    async with roblox(arguments.port) as standin:
        standin.group = arguments.group
        standin.faults.at_random(arguments.failing, arguments.seed)
        ladder = itertools.cycle([(), *((name,) for name in LADDER)])
        for user in range(1, arguments.members + 1):
            standin.add_member(*next(ladder), user=user)
        print(f"group {standin.group}, key {KEY}, at {standin.url}", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Roblox, as its documents describe it")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--group", type=int, default=7)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failing", type=float, default=0.0, help="share of the answers that go wrong")
    asyncio.run(_serve(parser.parse_args()))
