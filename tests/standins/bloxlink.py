"""Bloxlink: its v4 API, of one Discord server, as clients use it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from tests.standins import Standin, serving
from tests.support import unique_id

KEY = "a-bloxlink-key-of-the-stand-in"


class Bloxlink(Standin):
    """The links of the members of `guild`, by Discord id; one person may have several."""

    def __init__(self) -> None:
        super().__init__()
        self.guild = unique_id()
        self.key = KEY
        self.links: dict[int, int] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        """What it answers."""
        guild = "/v4/public/guilds/{guild}"
        yield web.get(f"{guild}/discord-to-roblox/{{discord}}", self._to_roblox)

    def failure(self, status: int) -> web.Response:
        """Its answer when it is broken, away or asked too often."""
        return _error(status, f"error {status}")

    async def _to_roblox(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != self.key or request.match_info["guild"] != str(self.guild):
            return _error(401, "Invalid API key.")
        user = self.links.get(int(request.match_info["discord"]))
        if user is None:
            return _error(404, "User not found.")
        return web.json_response({"robloxID": str(user), "resolved": {}})


def _error(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


@asynccontextmanager
async def bloxlink() -> AsyncIterator[Bloxlink]:
    """A server without links, whose key is KEY."""
    standin = Bloxlink()
    async with serving(standin):
        yield standin
