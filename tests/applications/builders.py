"""The applications service beside a stand-in for accounts, whose ranks a test sets and looks at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from applications.main import SERVICE
from applications.models import ApproveQuery, Record
from applications.repository import Repository
from applications.settings import ApplicationsLimits, ApplicationsSettings
from common.actors import Actor
from common.app import create_app
from common.errors import ServiceError, UserNotFound
from common.idempotency import Attempt, read_attempt
from common.mongo import Database, Document, connect, transaction
from common.outgoing.headers import KEY_NAME_HEADER
from tests.support import Servers, running, settings

GUEST, TRAINEE, CAST, MANAGER = 0, 10, 20, 40
FIRST, SECOND = "roblox:11", "roblox:12"
"""Moderators."""

PUBLIC_URL = "https://park.example"


class Accounts:
    """Stands in for the two internal routes of accounts.

    `fails_with` is the status that setting a rank answers instead, with `discord`; while `may_answer` is
    cleared, it waits with its answer, the rank being set or not set already. `stored` are ranks that are
    answered to whoever does not ask for fresh ones; while `may_read` is cleared, those who do so wait; `reading` counts
    them. `links` are the Roblox accounts of Discord accounts, as actors name them; an accounts of an older version
    `resolves` nobody.
    """

    def __init__(self) -> None:
        self.ranks: dict[int, int] = {}
        self.stored: dict[int, int] = {}
        self.links: dict[str, str] = {}
        self.resolves = True
        self.discord: str | None = None
        self.reading = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.ranked: list[int] = []
        self.fails_with: int | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.app = FastAPI()
        self.app.add_route("/internal/member", self._member)
        self.app.add_route("/internal/rank", self._rank, methods=["POST"])

    def knows(self, user: int, rankid: int = GUEST) -> None:
        self.ranks[user] = rankid

    async def _member(self, request: Request) -> Response:
        user = int(request.query_params["id"])
        if user not in self.ranks:
            return JSONResponse(UserNotFound().body(), 404)
        if request.query_params.get("fresh") != "true":
            return self._answer(user, self.stored.get(user))
        self.reading += 1
        await self.may_read.wait()
        return self._answer(user, moderator=request.query_params.get("moderator"))

    async def _rank(self, request: Request) -> Response:
        wish = await request.json()
        user, rankid = wish["user"], wish["rankid"]
        self.ranked.append(user)
        if self.fails_with is None:
            self.ranks[user] = rankid
        await self.may_answer.wait()
        if self.fails_with is not None:
            refusal = ServiceError(self.fails_with, "no", discord=self.discord)
            return JSONResponse(refusal.body(), self.fails_with)
        return self._answer(user)

    def _answer(self, user: int, stored: int | None = None, moderator: str | None = None) -> Response:
        rankid = self.ranks[user] if stored is None else stored
        found = {"id": user, "username": f"User{user}", "rankid": rankid}
        if moderator is not None and self.resolves:
            linked = self.links.get(moderator)
            found["actor"] = {"by": linked, "via": moderator} if linked else {"by": moderator}
        return JSONResponse(found)


@dataclass
class Park:
    """A running applications service."""

    client: httpx.AsyncClient
    database: Database
    accounts: Accounts = field(default_factory=Accounts)

    async def upload(
        self, user: int, *, key: str | None = None, caller: str = "game", **answers: Any
    ) -> httpx.Response:
        return await self.client.post(
            "/application/upload",
            params={"id": user},
            json=four_answers(**answers),
            headers=act_headers(key, caller),
        )

    async def approve(
        self, user: int, moderator: str = FIRST, *, key: str | None = None, caller: str = "bot"
    ) -> httpx.Response:
        params: dict[str, str | int] = {"id": user, "moderator": moderator}
        return await self.client.post(
            "/application/approve", params=params, headers=act_headers(key, caller), timeout=20
        )

    async def read(self, url: str) -> httpx.Response:
        return await self.client.get(url.removeprefix(PUBLIC_URL))

    async def records(self, user: int) -> list[Document]:
        return await self.database["applications"].find({"user": user}).sort("_id").to_list()

    async def events(self, user: int, fact: str) -> list[bytes]:
        """The payloads of the user's events whose subject ends with `fact`, as the outbox holds them."""
        rows = self.database["outbox"].find({"subject": f"callboard.applications.{fact}.v1"})
        return [row["payload"] async for row in rows if f'"user":{user},'.encode() in row["payload"]]


@asynccontextmanager
async def park(
    servers: Servers, accounts: Accounts | None = None, *, in_one_process: bool = True, **given: Any
) -> AsyncIterator[Park]:
    """The service on the servers of this run, beside `accounts` where they are in one process.

    It has looked for what others left behind, and looks no second time: it would find what a test leaves for another,
    and knows none of that test's people.
    """
    accounts = accounts or Accounts()
    own = settings(ApplicationsSettings, servers, **{"public_url": PUBLIC_URL} | given)
    own = own.model_copy(
        update={"applications": own.applications.model_copy(update={"finish_every_seconds": 86_400.0})}
    )
    has_looked = asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        look = Repository.abandoned

        async def abandoned(repository: Repository) -> list[int]:
            found = await look(repository)
            has_looked.set()
            return found

        patch.setattr(Repository, "abandoned", abandoned)
        async with (
            running(
                create_app(SERVICE, own, {"accounts": accounts.app} if in_one_process else None), own
            ) as client,
            database(servers) as applications,
        ):
            async with asyncio.timeout(30):
                await has_looked.wait()
            yield Park(client, applications, accounts)


@asynccontextmanager
async def database(servers: Servers) -> AsyncIterator[Database]:
    """The database of applications."""
    client, found = connect(settings(ApplicationsSettings, servers, public_url=PUBLIC_URL), "applications")
    async with client:
        yield found


def act_headers(key: str | None, caller: str) -> dict[str, str]:
    """The headers of an act that the API key `caller` does, with this Idempotency-Key if any."""
    return {KEY_NAME_HEADER: caller} | ({"Idempotency-Key": key} if key is not None else {})


async def begin_approval(
    applications: Database, user: int, moderator: str = FIRST, *, key: str | None = None
) -> Record:
    """What a process had recorded that died right after: `approving`, with a lease that holds.

    `key` is the Idempotency-Key with which the bot had asked for it.
    """
    repository = Repository(applications, ApplicationsLimits())
    attempt = approval_attempt(user, moderator, key) if key else None
    return await transaction(
        applications, lambda session: repository.begin_approval(session, user, Actor(by=moderator), attempt)
    )


def approval_attempt(user: int, moderator: str, key: str) -> Attempt:
    """What the service makes of the bot's request."""
    scope = {
        "type": "http",
        "path": "/application/approve",
        "headers": [(b"idempotency-key", key.encode())],
    }
    found = read_attempt(Request(scope), ApproveQuery.model_validate({"id": user, "moderator": moderator}))
    assert found is not None
    return replace(found, caller="bot")


async def let_lease_run_out(applications: Database, user: int) -> None:
    """As if the time of a lease had passed."""
    await applications["applications"].update_one(
        {"user": user, "status": "approving"},
        {"$set": {"claimed_until": datetime.now(UTC) - timedelta(seconds=1)}},
    )


def four_answers(**changes: Any) -> dict[str, Any]:
    """The body of an upload."""
    return {
        "q1": "I like trains.",
        "q2": "I would talk to them.",
        "q3": "Ten hours.",
        "q4": "No.",
    } | changes


@asynccontextmanager
async def refusing_events(own: Database) -> AsyncIterator[None]:
    """Meanwhile MongoDB takes no new event into the outbox."""
    await own.command("collMod", "outbox", validator={"never": True}, validationLevel="moderate")
    try:
        yield
    finally:
        await own.command("collMod", "outbox", validator={}, validationLevel="strict")
