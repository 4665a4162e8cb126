"""The requests of a park, through the gateway."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.machine import Machine
from tests.support import unique_id

UNAVAILABLE = (503, "1")


@dataclass(frozen=True)
class Visitors:
    """Clients of the gateway with the key of a game and of a bot."""

    game: httpx.AsyncClient
    bot: httpx.AsyncClient

    async def log(self, user: int, key: str | None = None, place: int = 1001, **given: Any) -> httpx.Response:
        """Log ten minutes of this person."""
        params = {
            "id": user,
            "place": place,
            "duration": 600,
            "training": "false",
            "server": "server-1",
            "ended_at": int(time.time()),
        } | given
        headers = {"Roblox-Id": str(place)} | ({"Idempotency-Key": key} if key else {})
        return await self.game.post("/log", params=params, headers=headers)

    async def join(self, user: int) -> httpx.Response:
        """Ask who this player is."""
        return await self.game.get("/connect", params={"id": user, "place": 1001, "training": "false"})

    async def profile(self, user: int) -> httpx.Response:
        """Look somebody up."""
        return await self.bot.get("/profile", params={"id": user})

    async def change(self, what: str, username: str, code: str = "tot") -> httpx.Response:
        """Grant or revoke a certification."""
        params = {"username": username, "certification": code, "moderator": "Boss"}
        return await self.bot.post(f"/certification/{what}", params=params)

    async def approve(self, user: int) -> httpx.Response:
        """Approve somebody's application."""
        return await self.bot.post("/application/approve", params={"id": user, "moderator": "Boss"})

    async def upload(self, user: int) -> httpx.Response:
        """Upload an application."""
        body = {f"q{number}": "an answer" for number in range(1, 5)}
        return await self.bot.post("/application/upload", params={"id": user}, json=body)

    async def points(self, user: int) -> int:
        """The points that /profile shows; -1 for somebody who is not known."""
        answer = await self.profile(user)
        return int(answer.json().get("points", -1))


@asynccontextmanager
async def visitors(park: Machine) -> AsyncIterator[Visitors]:
    """Clients that are closed in the end."""
    async with park.client("roblox") as game, park.client("discord") as bot:
        yield Visitors(game, bot)
