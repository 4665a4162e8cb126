"""How plugins are found, checked, entered and left."""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Protocol

import pytest

from common.errors import ConfigurationError
from common.group import load_group
from common.mongo import connect
from common.plugins import enter, load
from common.settings import Settings
from shifts.plugins import POINTS, PerMinute, PointsPolicy
from tests.support import ROOT, Servers, settings

GROUP = load_group(ROOT / "callboard.toml")


class Generous(PointsPolicy, Protocol):
    """More than the built-in policies offer."""

    def bonus(self) -> int: ...


async def test_a_plugin_that_lacks_what_its_point_asks_for_is_refused_when_it_is_loaded(
    servers: Servers,
) -> None:
    client, database = connect(settings(Settings, servers), "shifts")
    async with client:
        assert isinstance(load(POINTS, "per_minute", GROUP, database), PerMinute)
        with pytest.raises(ConfigurationError) as refused:
            load(replace(POINTS, protocol=Generous), "per_minute", GROUP, database)
    assert str(refused.value) == 'Plugin "per_minute" for callboard.points lacks bonus: it is no Generous.'


async def test_the_plugins_that_a_group_uses_come_by_name(servers: Servers) -> None:
    own = settings(Settings, servers)
    client, database = connect(own, "shifts")
    async with client, AsyncExitStack() as stack:
        assert list(await enter(stack, POINTS, GROUP, database, own)) == ["per_minute"]
