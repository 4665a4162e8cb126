"""The Roblox plugins, on a stand-in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from accounts.plugins import IDENTITY, RANKING
from accounts.plugins.roblox import RobloxIdentity, RobloxRanking
from common.group import Group, load_group
from common.mongo import Database
from common.outgoing.providers import Urgency
from common.plugins import load
from tests.standins import Forged
from tests.standins.roblox import KEY, LADDER, Roblox
from tests.support import ROOT

TRAINEE, CAST, SENIOR, MANAGER, EXECUTIVE = LADDER.values()
GATEWAY_401 = Forged(401, {"errors": [{"code": 0, "message": "Invalid API Key"}]})


def group_on(standin: Roblox, **options: Any) -> Group:
    """The shipped configuration, with the Roblox plugins on this stand-in."""
    urls = {"open_cloud_url": standin.url, "users_url": standin.url}
    group = load_group(ROOT / "callboard.toml")
    own = {"group": standin.group, **urls, **options}
    plugins = group.plugins.model_copy(
        update={"identity": ("roblox",), "ranking": "roblox", "options": {"roblox": own}}
    )
    return group.model_copy(update={"plugins": plugins})


@asynccontextmanager
async def ranking(
    database: Database, standin: Roblox, *, key: str | None = KEY, **options: Any
) -> AsyncIterator[RobloxRanking]:
    """The ranking plugin, started."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("CALLBOARD_ROBLOX_KEY", raising=False)
        if key is not None:
            environment.setenv("CALLBOARD_ROBLOX_KEY", key)
        plugin: RobloxRanking = load(RANKING, "roblox", group_on(standin, **options), database)
    async with plugin:
        yield plugin


@asynccontextmanager
async def identity(database: Database, standin: Roblox) -> AsyncIterator[RobloxIdentity]:
    """The identity plugin, started; it needs no key."""
    plugin: RobloxIdentity = load(IDENTITY, "roblox", group_on(standin), database)
    async with plugin:
        yield plugin


def changes(standin: Roblox) -> list[str]:
    """The calls that change something, in order."""
    return [one.path.rpartition(":")[2] for one in standin.requests if one.method != "GET"]


async def read(plugin: RobloxRanking, user: int) -> int | None:
    """The rankid of a user whom a player waits for."""
    return await plugin.read(user, Urgency.PLAYER)
