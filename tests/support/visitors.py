"""The requests of a park through the gateway, one by one and as a load."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support import unique_id
from tests.support.accounting import ENDED_AT
from tests.support.machine import Machine

Request = Callable[[int], Awaitable[httpx.Response]]
"""Sends a request about somebody."""


@dataclass(frozen=True)
class Visitors:
    """Clients of the gateway with the key of a game and of a bot."""

    game: httpx.AsyncClient
    bot: httpx.AsyncClient

    async def log(self, user: int, key: str | None = None, place: int = 1001, **given: Any) -> httpx.Response:
        """Log ten minutes of this person; with a key it is the same shift whenever it is sent."""
        params: dict[str, Any] = {
            "id": user,
            "place": place,
            "duration": 600,
            "training": "false",
            "server": "server-1",
            "ended_at": ENDED_AT,
        } | given
        headers = {"Roblox-Id": str(place)} | ({"Idempotency-Key": key} if key else {})
        return await self.game.post("/log", params=params, headers=headers)

    async def join(self, user: int) -> httpx.Response:
        """Ask who this player is."""
        return await self.game.get("/connect", params={"id": user, "place": 1001, "training": "false"})

    async def profile(self, user: int) -> httpx.Response:
        """Look somebody up."""
        return await self.bot.get("/profile", params={"id": user})

    async def change(
        self, what: str, username: str, code: str = "tot", key: str | None = None
    ) -> httpx.Response:
        """Grant or revoke a certification; with a key it is the same act whenever it is sent."""
        params = {"username": username, "certification": code, "moderator": "400000000000000004"}
        headers = {"Idempotency-Key": key} if key else {}
        return await self.bot.post(f"/certification/{what}", params=params, headers=headers)

    async def approve(self, user: int) -> httpx.Response:
        """Approve somebody's application."""
        return await self.bot.post(
            "/application/approve", params={"id": user, "moderator": "400000000000000004"}
        )

    async def upload(self, user: int) -> httpx.Response:
        """Upload an application."""
        body = {f"q{number}": "an answer" for number in range(1, 5)}
        return await self.bot.post("/application/upload", params={"id": user}, json=body)

    async def read(self, token: str) -> httpx.Response:
        """Read an application."""
        return await self.bot.get(f"/applications/{token}")

    async def shown(self, user: int) -> dict[str, Any]:
        """What /profile shows of somebody, which must succeed."""
        answer = await self.profile(user)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@asynccontextmanager
async def visitors(park: Machine) -> AsyncIterator[Visitors]:
    """Clients that are closed in the end."""
    async with park.client("roblox") as game, park.client("discord") as bot:
        yield Visitors(game, bot)


_BETWEEN_SECONDS = 0.03
"""A load that left the machine nothing would only show that what starts on it starts late."""


@dataclass(frozen=True)
class Seen:
    """A request of a load and its answer: None when there was none. `subject` is who it was about."""

    kind: str
    subject: int
    status: int | None
    text: str
    retry_after: str | None
    seconds: float


@dataclass
class Load:
    """Requests that are sent one after the other by several clients at once, until it is over."""

    seen: list[Seen] = field(default_factory=list)
    is_over: bool = False

    async def repeat(self, kind: str, request: Request) -> None:
        """Send requests of one kind, each about somebody new."""
        while not self.is_over:
            self.seen.append(await observe(kind, request, unique_id()))
            await asyncio.sleep(_BETWEEN_SECONDS)

    @property
    def acknowledged_shifts(self) -> list[int]:
        """Whose shifts were answered with success; each person has one."""
        return [one.subject for kind in ("log", "log with a key") for one in self.of(kind, 200)]

    def failed(self, *kinds: str) -> list[Seen]:
        """What of these kinds did not succeed. After a failed change, the next may be refused (400)."""
        fine = {("change", 400)}
        return [
            one
            for kind in kinds
            for one in self.of(kind)
            if one.status != 200 and (kind, one.status) not in fine
        ]

    def of(self, kind: str, *statuses: int | None) -> list[Seen]:
        """What was seen of a kind, with one of these statuses where any are given."""
        return [one for one in self.seen if one.kind == kind and (not statuses or one.status in statuses)]


async def observe(kind: str, request: Request, subject: int) -> Seen:
    """Send one request and note what came of it."""
    began = time.monotonic()
    try:
        answer = await request(subject)
    except httpx.HTTPError as error:
        return Seen(kind, subject, None, repr(error), None, time.monotonic() - began)
    retry_after = answer.headers.get("retry-after")
    return Seen(kind, subject, answer.status_code, answer.text, retry_after, time.monotonic() - began)


@asynccontextmanager
async def load(clients: Sequence[tuple[str, Request]], warm: int = 5) -> AsyncIterator[Load]:
    """A load of these clients, under way once each kind was answered `warm` times; it ends with the block."""
    under_way = Load()
    tasks = [asyncio.create_task(under_way.repeat(kind, request)) for kind, request in clients]
    try:
        for kind, _ in clients:
            while len(under_way.of(kind)) < warm:  # noqa: ASYNC110 - a load has no event for it
                await asyncio.sleep(0.02)
        yield under_way
        under_way.is_over = True
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def a_load(park: Machine, guest: Visitors) -> list[tuple[str, Request]]:
    """Clients of every kind, for `load`: most about somebody new each time, some about people of their own."""
    people = [person.username for person in await park.people(2, "Cast Member")]
    applicants = deque(await park.people(500, "Guest"))

    def server_of(user: int) -> str:
        return f"server-{user % 50}"  # as one may log 500 shifts a minute

    def changer(username: str) -> Request:
        turns = itertools.cycle(("grant", "revoke"))
        return lambda _: guest.change(next(turns), username)

    async def approve(_: int) -> httpx.Response:
        if not applicants:  # a load may last for as long as a slow machine needs
            applicants.extend(await park.people(500, "Guest"))
        return await guest.approve(applicants.popleft().id)

    return [
        *[("log", lambda user: guest.log(user, server=server_of(user)))] * 4,
        *[("log with a key", lambda user: guest.log(user, server=server_of(user), key=f"shift-{user}"))] * 4,
        *[("join", guest.join)] * 3,
        *[("upload", guest.upload)] * 2,
        *[("change", changer(username)) for username in people],
        ("approve", approve),
    ]
