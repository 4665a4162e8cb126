"""What is wrong with a group on Roblox, or with its configuration, is named, and how to mend it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accounts.plugins.roblox import RobloxRanking
from common.errors import ConfigurationError
from common.mongo import Database
from tests.accounts.on_roblox import changes, ranking
from tests.standins import Fault
from tests.standins.roblox import KEY, LADDER, Key, Roblox
from tests.support import unique_id

# ----------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": None}, "plugins.options.roblox.group"),
        ({"group": 0}, "plugins.options.roblox.group"),
        ({"group": 2**63}, "plugins.options.roblox.group"),
        ({"roles": {"Nobody": 1}}, 'roles."Nobody"'),
        ({"roles": {"Guest": 1}}, 'roles."Guest"'),
        ({"roles": {"Manager": 1, "Executive": 1}}, 'roles."Executive"'),
        ({"roles": {"Manager": 1, "MANAGER": 2}}, 'roles."MANAGER"'),
        ({"roles": {"Manager": "a role"}}, "plugins.options.roblox.roles.Manager"),
        ({"replicas": 0}, "plugins.options.roblox.replicas"),
        ({"open_cloud_url": "apis.roblox.com"}, "plugins.options.roblox.open_cloud_url"),
        ({"kye": "value"}, "plugins.options.roblox.kye"),
        ({"key": None}, "CALLBOARD_ROBLOX_KEY"),
        ({"key": "a key\nof two lines"}, "CALLBOARD_ROBLOX_KEY"),
        ({"key": "a-key…"}, "CALLBOARD_ROBLOX_KEY"),
    ],
    ids=str,
)
async def test_a_mistake_in_the_configuration_is_named(
    database: Database, standin: Roblox, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        async with ranking(database, standin, **options):
            pass
    assert words in str(error.value)
    assert "two lines" not in str(error.value)


# ------------------------------------------------------------------------------------------------ doctor


async def test_the_doctor_finds_everything_in_order_and_changes_nothing(
    plugin: RobloxRanking, standin: Roblox, database: Database
) -> None:
    standin.keys[KEY] = Key(groups=[str(standin.group)], expires=datetime.now(UTC) + timedelta(days=90))
    findings = [finding async for finding in plugin.examine()]
    assert [finding for finding in findings if not finding.is_right] == []
    told = "\n".join(finding.what for finding in findings)
    for part in (
        "key is valid",
        "expires on",
        "group:read",
        "group:write",
        "clock",
        f"group {standin.group}",
    ):
        assert part in told
    for name in LADDER:
        assert f'"{name}" (id {standin.role(name).id}' in told
    assert changes(standin) == ["/api-keys/v1/introspect"]
    assert await database["roblox_roles"].find_one({"_id": standin.group}) is None
    assert KEY not in str(findings)


Spoil = Callable[[Roblox], object]


@pytest.mark.parametrize(
    ("spoil", "what", "mend"),
    [
        (lambda one: one.keys.clear(), "does not know the key (401", "CALLBOARD_ROBLOX_KEY"),
        (lambda one: setattr(one.keys[KEY], "is_enabled", False), "disabled", "Enable it"),
        (lambda one: setattr(one.keys[KEY], "expires", datetime(2020, 1, 1, tzinfo=UTC)), "expired", "later"),
        (lambda one: one.keys[KEY].operations.remove("write"), "lacks the scope group:write", "group:write"),
        (lambda one: one.keys[KEY].operations.remove("read"), "lacks the scope group:read", "group:read"),
        (lambda one: setattr(one.keys[KEY], "groups", ["12"]), "lacks the scope group:write", "this group"),
        (lambda one: setattr(one.keys[KEY], "groups", []), "lacks the scope group:read", "this group"),
        (lambda one: setattr(one, "group", unique_id()), "is not found: NOT_FOUND", "options.roblox.group"),
        (lambda one: one.roles.pop(one.ladder["Manager"].id), '"Manager" (40) has no role', "Executive"),
        (lambda one: setattr(one, "clock_ahead", timedelta(seconds=95)), "s behind", "timedatectl"),
        (lambda one: one.faults.always(Fault.CLOSED), "does not answer", "apis.roblox.com"),
        (lambda one: one.faults.always(Fault.GARBAGE), "does not answer", "apis.roblox.com"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_the_doctor_says_what_is_wrong_and_how_to_mend_it(
    plugin: RobloxRanking, standin: Roblox, spoil: Spoil, what: str, mend: str
) -> None:
    spoil(standin)
    findings = [finding async for finding in plugin.examine()]
    wrong = [finding for finding in findings if not finding.is_right and what in finding.what]
    assert wrong, findings
    assert mend in wrong[0].mend
    assert all(finding.mend for finding in findings if not finding.is_right)


async def test_the_doctor_takes_a_scope_that_names_no_groups_for_one_of_all(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    standin.keys[KEY].groups = None
    assert [finding async for finding in plugin.examine() if not finding.is_right] == []


async def test_the_doctor_warns_of_a_key_that_expires_soon(plugin: RobloxRanking, standin: Roblox) -> None:
    standin.keys[KEY].expires = datetime.now(UTC) + timedelta(days=3)
    (warning,) = [finding async for finding in plugin.examine() if finding.mend]
    assert warning.is_right
    assert "expires on" in warning.what


async def test_the_doctor_says_when_a_role_is_given_by_its_rank(database: Database, standin: Roblox) -> None:
    roles = {"Manager": 40, "Executive": 12345}
    async with ranking(database, standin, roles=roles) as plugin:
        wrong = [finding async for finding in plugin.examine() if not finding.is_right]
    assert [one.what for one in wrong] == [
        'The rank "Manager" (40) has no role: 40 in plugins.options.roblox.roles."Manager" is a rank and no role id.',
        'The rank "Executive" (50) has no role: 12345 in plugins.options.roblox.roles."Executive" is no id of a '
        "role of the group.",
    ]
    assert f'"Manager" is {standin.role("Manager").id} (rank 40)' in wrong[0].mend


async def test_the_doctor_lists_the_roles_where_one_is_missing(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    del standin.roles[standin.ladder["Manager"].id]
    (wrong,) = [finding async for finding in plugin.examine() if not finding.is_right]
    for role in standin.roles.values():
        assert f'"{role.name}" is {role.id} (rank {role.rank})' in wrong.mend
