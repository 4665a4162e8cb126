"""Points policies: credited seconds to exact points."""

from fractions import Fraction
from typing import Any

import pytest

from common.errors import ConfigurationError
from common.group import Group, load_group
from common.mongo import connect
from common.plugins import load
from shifts.plugins import PointsPolicy
from shifts.settings import ShiftsSettings
from tests.support import ROOT, Servers, settings


async def policy(servers: Servers, name: str, options: dict[str, Any]) -> PointsPolicy:
    """The installed policy of this name, with these options in `callboard.toml`."""
    shipped = load_group(ROOT / "callboard.toml")
    plugins = shipped.plugins.model_copy(update={"options": {name: options}})
    group: Group = shipped.model_copy(update={"plugins": plugins})
    client, database = connect(settings(ShiftsSettings, servers), "shifts")
    async with client:
        loaded: PointsPolicy = load("callboard.points", name, group, database)
        return loaded


async def test_per_minute_is_exact_to_the_second(servers: Servers) -> None:
    chosen = await policy(servers, "per_minute", {"points": 1.5})
    assert chosen.points(20, training=False) == Fraction(1, 2)
    assert chosen.points(3600, training=True) == 0


async def test_tiers_count_each_minute_by_where_in_the_shift_it_lies(servers: Servers) -> None:
    tiers = [
        {"from_minute": 0, "points": 1},
        {"from_minute": 60, "points": 2},
        {"from_minute": 120, "points": 0},
    ]
    chosen = await policy(servers, "tiered", {"tiers": tiers, "training_points": 3})
    minutes = {30: 30, 60: 60, 90: 120, 120: 180, 600: 180}
    assert {m: chosen.points(m * 60, training=False) for m in minutes} == minutes
    assert chosen.points(60, training=True) == 3


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("per_minute", {"points": -1}, r"plugins\.options\.per_minute\.points"),
        ("per_minute", {"point": 1}, r"plugins\.options\.per_minute\.point"),
        ("tiered", {"tiers": [{"from_minute": 5, "points": 1}]}, "the first at 0"),
        ("tiered", {}, r"plugins\.options\.tiered\.tiers"),
        (
            "per_hour",
            {},
            'No plugin "per_hour" is installed for callboard.points; there are: per_minute, tiered',
        ),
    ],
)
async def test_a_mistake_in_the_options_is_named_by_its_key(
    servers: Servers, name: str, options: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigurationError, match=key):
        await policy(servers, name, options)
