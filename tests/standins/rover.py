"""RoVer: its API, of one Discord server, as clients use it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from tests.standins import Standin, serving
from tests.support import unique_id

KEY = "a-rover-key-of-the-stand-in"


class Rover(Standin):
    """The links of the members of `guild`, by Discord id; one person may have several."""

    def __init__(self) -> None:
        super().__init__()
        self.guild = unique_id()
        self.key = KEY
        self.links: dict[int, int] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        """What it answers."""
        yield web.get("/api/guilds/{guild}/discord-to-roblox/{discord}", self._to_roblox)

    def failure(self, status: int) -> web.Response:
        """Its answer when it is broken, away or asked too often."""
        return _error(status, "failed", f"error {status}")

    async def _to_roblox(self, request: web.Request) -> web.Response:
        authorization = request.headers.get("Authorization")
        if authorization != f"Bearer {self.key}" or request.match_info["guild"] != str(self.guild):
            return _error(401, "unauthorized", "The API key is invalid.")
        discord = request.match_info["discord"]
        user = self.links.get(int(discord))
        if user is None:
            return _error(404, "user_not_found", "The user is not verified.")
        return web.json_response(
            {
                "discordId": discord,
                "guildId": str(self.guild),
                "robloxId": user,
                "cachedUsername": f"Player_{user}",
            }
        )


def _error(status: int, code: str, reason: str) -> web.Response:
    return web.json_response({"errorCode": code, "message": reason}, status=status)


@asynccontextmanager
async def rover() -> AsyncIterator[Rover]:
    """A server without links, whose key is KEY."""
    standin = Rover()
    async with serving(standin):
        yield standin
