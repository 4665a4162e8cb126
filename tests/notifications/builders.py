"""Notifications on a database of its own, beside a stand-in for Discord and one for accounts."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common.errors import UserNotFound
from common.events import (
    ApplicationApproved,
    ApplicationSubmitted,
    CertificationGranted,
    CertificationRevoked,
    ShiftLogged,
)
from common.group import Group, load_group
from common.mongo import Database, connect, migrate
from common.outgoing.limits import OutgoingLimits
from common.outgoing.local import Apps
from common.outgoing.peer import Peer
from common.plugins import PluginContext
from common.settings import Settings
from notifications.main import SERVICE
from notifications.plugins import Notifier
from notifications.plugins.discord import Discord
from notifications.service import Notifications
from notifications.settings import DiscordLimits, NotificationsLimits, NotificationsSettings
from tests.standins.discord import Discord as Standin
from tests.standins.discord import Webhook
from tests.standins.discord import discord as discord_standin
from tests.support import ROOT, Servers, settings, unconnected, unique_id

GROUP = load_group(ROOT / "callboard.toml")


class Accounts:
    """Stands in for the internal route of accounts that tells a user's name."""

    def __init__(self) -> None:
        self.app = Starlette(routes=[Route("/internal/member", self._member)])
        self.names: dict[int, str] = {}
        self.asked: list[int] = []
        self.status = 200

    async def _member(self, request: Request) -> Response:
        user = int(request.query_params["id"])
        self.asked.append(user)
        if self.status != 200:
            return JSONResponse({"status": "error", "message": "down"}, self.status)
        if user not in self.names:
            return JSONResponse(UserNotFound().body(), 404)
        return JSONResponse({"id": user, "username": self.names[user], "rankid": 0})


@dataclass
class Park:
    """The use cases, and what they wrote."""

    service: Notifications
    database: Database
    accounts: Accounts
    standin: Standin
    webhook: Webhook

    @property
    def lines(self) -> list[str]:
        """What stands in the channel."""
        return self.webhook.lines

    def posts(self) -> list[Any]:
        """The body of every message that was sent, whatever became of it."""
        return [one.json for one in self.standin.received(self.webhook.token, "POST")]


def group(options: Mapping[str, str] | None = None) -> Group:
    """The shipped configuration with texts of its own for Discord."""
    plugins = GROUP.plugins.model_copy(update={"options": {"discord": options or {}}})
    return GROUP.model_copy(update={"plugins": plugins})


def plugin(
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    url: str,
    options: Mapping[str, str] | None = None,
    **limits: float,
) -> Discord:
    """The plugin on this webhook; in most tests, it need not be as slow as Discord asks for."""
    monkeypatch.setenv("CALLBOARD_DISCORD_WEBHOOK", url)
    own = unconnected(NotificationsSettings, discord=DiscordLimits(**{"per_minute": 60_000} | limits))
    return Discord(PluginContext(group(options), "discord", database, own))


@asynccontextmanager
async def database(servers: Servers) -> AsyncIterator[Database]:
    """An empty database, migrated."""
    client, one = connect(settings(Settings, servers), f"notifications_{unique_id()}")
    async with client:
        await migrate(one, SERVICE.all_collections)
        yield one


@asynccontextmanager
async def notifying(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    *others: tuple[str, Notifier],
    options: Mapping[str, str] | None = None,
    accounts_url: str = "http://accounts",
    limits: NotificationsLimits | None = None,
    discord: Mapping[str, float] | None = None,
    **given: Any,
) -> AsyncIterator[Park]:
    """The use cases, which tell the `others` too; `discord` are limits of its plugin, `given` is what the webhook is."""
    accounts = Accounts()
    apps: Apps = {} if accounts_url != "http://accounts" else {"accounts": accounts.app}
    async with database(servers) as own, discord_standin() as standin:
        webhook = standin.webhook(**{"per_window": 10_000} | given)
        peer = Peer("accounts", accounts_url, servers.internal_token, apps, OutgoingLimits())
        try:
            async with plugin(monkeypatch, own, webhook.url, options, **(discord or {})) as notifier:
                notifiers = dict([*others, ("discord", notifier)])
                service = Notifications(limits or NotificationsLimits(), GROUP, own, peer, notifiers)
                yield Park(service, own, accounts, standin, webhook)
        finally:
            await peer.close()


def submitted(url: str = "https://park.example/applications/abc", **given: Any) -> ApplicationSubmitted:
    """The event of an upload."""
    return ApplicationSubmitted(**{"application": "a1", "user": unique_id(), "url": url} | given)


def approved(**given: Any) -> ApplicationApproved:
    """The event of an approval."""
    values = {
        "application": "a1",
        "user": unique_id(),
        "username": "Ann",
        "rank": "Student",
        "moderator": "Boss",
    }
    return ApplicationApproved(**values | given)


def granted(**given: Any) -> CertificationGranted:
    """The event of a grant."""
    values = {
        "user": unique_id(),
        "username": "Ann",
        "certification": "tot",
        "version": 1,
        "moderator": "Boss",
    }
    return CertificationGranted(**values | given)


def revoked(**given: Any) -> CertificationRevoked:
    """The event of a revocation."""
    values = {
        "user": unique_id(),
        "username": "Ann",
        "certification": "tot",
        "version": 2,
        "moderator": "Boss",
    }
    return CertificationRevoked(**values | given)


def shift(hours: float = 1, **given: Any) -> ShiftLogged:
    """The event of a shift."""
    seconds = int(hours * 3600)
    values: dict[str, Any] = {
        "user": unique_id(),
        "place": 1001,
        "server": "server-1",
        "training": False,
        "started_at": 0,
        "ended_at": seconds,
        "duration": seconds,
        "credited_seconds": seconds,
        "points": seconds // 60,
        "logged_by": "game",
    }
    return ShiftLogged(**values | given)
