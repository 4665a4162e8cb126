"""The public routes, each with a request that passes everything but, perhaps, its own rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.contracts.park import QUESTIONS, Park

SCOPES = ("roblox", "discord", "operator")


@dataclass(frozen=True)
class Route:
    """A row of the contract's table."""

    method: str
    path: str
    scopes: tuple[str, ...]
    params: Mapping[str, object]
    optional: tuple[str, ...] = ()
    is_roblox_only: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)

    async def call(
        self, park: Park, changes: Mapping[str, object] | None = None, **how: Any
    ) -> httpx.Response:
        """The request with some parameters changed (None: left out) and a fitting key, unless `how` says otherwise."""
        params = {**self.params, **(changes or {})}
        how.setdefault("key", park.keys[self.scopes[0]])
        if self.is_roblox_only:
            how.setdefault("headers", {"Roblox-Id": "1001"})
        return await park.call(self.method, self.path, params, **self.body, **how)


CONNECT = Route(
    "GET", "/connect", ("roblox",), {"place": 1001, "id": 1, "training": False}, is_roblox_only=True
)
PROFILE = Route("GET", "/profile", SCOPES, {"id": 1})
GRANT = Route(
    "POST",
    "/certification/grant",
    ("discord", "operator"),
    {"certification": "tot", "username": "Roblox", "moderator": "400000000000000004"},
)
REVOKE = Route("POST", "/certification/revoke", GRANT.scopes, GRANT.params)
APPROVE = Route(
    "POST", "/application/approve", ("discord", "operator"), {"id": 2, "moderator": "400000000000000004"}
)
UPLOAD = Route(
    "POST", "/application/upload", SCOPES, {"id": 1}, body={"json": dict.fromkeys(QUESTIONS, "An answer.")}
)
LOG = Route(
    "POST",
    "/log",
    ("roblox",),
    {"id": 1, "place": 1001, "duration": 60, "training": False, "server": "a-server"},
    optional=("ended_at", "now"),
    is_roblox_only=True,
)
APPLICATION = "/applications/{token}"

ROUTES = (CONNECT, PROFILE, GRANT, REVOKE, APPROVE, UPLOAD, LOG)


def name(value: object) -> str:
    """What a test is called by that runs for this route or value."""
    return value.path.strip("/").replace("/", "-") if isinstance(value, Route) else str(value)
