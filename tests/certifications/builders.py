"""The certifications service beside a stand-in for accounts, whose members a test sets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from certifications.main import SERVICE
from certifications.settings import CertificationsSettings
from common.app import create_app
from common.errors import Unavailable, UserNotFound
from common.mongo import Database, Document, connect
from tests.support import Servers, running, settings, unique_id

GUEST, TRAINEE, CAST = 0, 10, 20
AWAY = -1
"""The fresh rank of somebody for whom the provider does not answer."""
DISCORD = 10**17
"""What is added to a user's id to make their Discord id."""
MODERATOR = "400000000000000004"


@dataclass(frozen=True)
class Member:
    """Somebody whom accounts knows."""

    id: int
    username: str
    rankid: int


class Accounts:
    """Stands in for the internal route of accounts that tells who a username is."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.add_route("/internal/member", self._member)
        self.fresh_ranks: dict[int, int] = {}
        """What a fresh look shows of a user, if it is not what is stored."""
        self.links: dict[str, int] = {}
        """The Roblox accounts of moderators."""
        self.is_old = False
        """Whether it is of a version that resolves nobody."""
        self.is_away = False
        self.asked: list[dict[str, str]] = []
        self._members: dict[str, Member] = {}

    def member(self, rankid: int = TRAINEE, user: int | None = None) -> Member:
        """A new member of this rank."""
        user = user or unique_id()
        member = Member(user, f"User_{user}", rankid)
        self._members[member.username.lower()] = member
        return member

    async def _member(self, request: Request) -> Response:
        query = dict(request.query_params)
        self.asked.append(query)
        if self.is_away or ("fresh" in query and self.fresh_ranks.get(int(query["id"])) == AWAY):
            return JSONResponse(Unavailable("ranking").body(), 503)
        if "username" in query:
            found = self._members.get(query["username"].lower())
        else:
            user = int(query["id"]) if "id" in query else int(query["discord"]) - DISCORD
            found = next((one for one in reversed(self._members.values()) if one.id == user), None)
        if found is None:
            return JSONResponse(UserNotFound().body(), 404)
        body: dict[str, Any] = dict(vars(found))
        if "fresh" in query:
            body["rankid"] = self.fresh_ranks.get(found.id, found.rankid)
        if (moderator := query.get("moderator")) and not self.is_old:
            linked = self.links.get(moderator)
            body["actor"] = {"by": f"roblox:{linked}", "via": moderator} if linked else {"by": moderator}
        return JSONResponse(body)


@dataclass
class Park:
    """A running certifications service."""

    client: httpx.AsyncClient
    database: Database
    accounts: Accounts

    async def grant(
        self,
        member: Member,
        code: str = "tot",
        *,
        username: str | None = None,
        moderator: str = MODERATOR,
    ) -> httpx.Response:
        return await self._change("grant", username or member.username, code, moderator)

    async def revoke(
        self,
        member: Member,
        code: str = "tot",
        *,
        username: str | None = None,
        moderator: str = MODERATOR,
    ) -> httpx.Response:
        return await self._change("revoke", username or member.username, code, moderator)

    async def held(self, member: Member) -> str:
        """The body of the internal route that tells what a user holds."""
        answer = await self.client.get("/internal/certifications", params={"user": member.id})
        assert answer.status_code == 200
        return answer.text

    async def records(self, member: Member) -> list[Document]:
        return await self.database["certifications"].find({"user": member.id}).sort("code").to_list()

    async def events(self, member: Member) -> list[tuple[str, bytes]]:
        """Subject and payload of the member's events in the order they were stored."""
        rows = await self.database["outbox"].find().sort("_id").to_list()
        found = [(row["subject"], row["payload"]) for row in rows]
        return [
            (subject, payload) for subject, payload in found if f'"user":{member.id},'.encode() in payload
        ]

    async def _change(self, change: str, username: str, code: str, moderator: str) -> httpx.Response:
        params = {"certification": code, "username": username, "moderator": moderator}
        return await self.client.post(f"/certification/{change}", params=params)


@asynccontextmanager
async def park(servers: Servers, accounts_url: str | None = None) -> AsyncIterator[Park]:
    """The service on the servers of this run, with accounts in the same process unless a URL is given."""
    accounts = Accounts()
    own = settings(CertificationsSettings, servers, **{"accounts_url": accounts_url} if accounts_url else {})
    client, database = connect(own, "certifications")
    async with (
        running(create_app(SERVICE, own, None if accounts_url else {"accounts": accounts.app}), own) as http,
        client,
    ):
        yield Park(http, database, accounts)


@asynccontextmanager
async def refusing_events(own: Database) -> AsyncIterator[None]:
    """Meanwhile MongoDB takes no new event into the outbox."""
    await own.command("collMod", "outbox", validator={"never": True}, validationLevel="moderate")
    try:
        yield
    finally:
        await own.command("collMod", "outbox", validator={}, validationLevel="strict")
