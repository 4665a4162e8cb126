"""Points policies: credited seconds to exact points."""

import time
from fractions import Fraction
from typing import Any

import pytest
from bson import encode

from common.errors import ConfigurationError
from common.group import Group, load_group
from common.mongo import connect
from common.plugins import load
from shifts.plugins import POINTS, PointsPolicy
from shifts.settings import ShiftsSettings
from tests.shifts.builders import log, shift
from tests.shifts.conftest import Park
from tests.support import ROOT, Servers, settings, unique_id


async def policy(servers: Servers, name: str, options: dict[str, Any]) -> PointsPolicy:
    """The installed policy of this name, with these options in `callboard.toml`."""
    shipped = load_group(ROOT / "callboard.toml")
    plugins = shipped.plugins.model_copy(update={"options": {name: options}})
    group: Group = shipped.model_copy(update={"plugins": plugins})
    client, database = connect(settings(ShiftsSettings, servers), "shifts")
    async with client:
        loaded: PointsPolicy = load(POINTS, name, group, database)
        return loaded


async def test_per_minute_is_exact_to_the_second(servers: Servers) -> None:
    chosen = await policy(servers, "per_minute", {"points": 1.5})
    assert chosen.points(20, training=False) == Fraction(1, 2)
    assert chosen.points(3600, training=True) == 0


async def test_a_fraction_of_any_points_that_are_taken_fits_into_a_document(servers: Servers) -> None:
    chosen = await policy(servers, "per_minute", {"points": 0.016666666667})
    earned = chosen.points(1, training=False) + Fraction(59, 60)
    assert encode({"numerator": earned.numerator, "denominator": earned.denominator})


class Fine:
    """A policy of somebody's own: of its fractions, no two have a common denominator."""

    def __init__(self) -> None:
        self._denominator = 2**61

    def points(self, credited_seconds: int, *, training: bool) -> Fraction:  # noqa: ARG002 - the same for all
        self._denominator -= 1
        return Fraction(3 * self._denominator // 4, self._denominator)


async def test_a_policy_may_answer_any_fraction(park: Park, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(park.service, "_policy", Fine())
    user = unique_id()
    for number in range(4):
        answer = await log(
            park.client, shift(id=user, ended_at=int(time.time()) - 3600 * number), f"{user}-{number}"
        )
        assert answer.status_code == 200
    paid = [found["points"] async for found in park.database["shifts"].find({"user": user})]
    assert sum(paid) in (2, 3)  # 3, or the least below


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
        ("per_minute", {"points": 1 / 60}, r"plugins\.options\.per_minute\.points: .* 12 decimal places"),
        ("tiered", {"tiers": [{"from_minute": 0, "points": 1 / 60}]}, "12 decimal places"),
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
