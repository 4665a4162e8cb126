"""Ranks as the roles of a group on Roblox."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accounts.errors import RankRefused
from accounts.plugins import CursorLost, OutsideRanking
from accounts.plugins.roblox import RobloxRanking
from callboard.databases import migrate_database
from common.errors import ConfigurationError, Unavailable
from common.mongo import Database, connect
from common.plugins import Examinable
from common.providers import Urgency
from common.settings import Settings
from tests.accounts.on_roblox import ranking
from tests.standins import Fault, Forged
from tests.standins.roblox import KEY, LADDER, Key, Roblox, roblox
from tests.support import Servers, settings, unique_id, wait_until

TRAINEE, CAST, SENIOR, MANAGER, EXECUTIVE = LADDER.values()
GATEWAY_401 = Forged(401, {"errors": [{"code": 0, "message": "Invalid API Key"}]})
GATEWAY_403 = Forged(403, {"errors": [{"code": 0, "message": "The key may not be used from here"}]})
ABORTED = Forged(409, {"code": "ABORTED", "message": "Try again."})


@pytest.fixture
async def standin() -> AsyncIterator[Roblox]:
    """A group in good order."""
    async with roblox() as one:
        yield one


@pytest.fixture(scope="module")
async def database(servers: Servers) -> AsyncIterator[Database]:
    """The database of accounts."""
    own = settings(Settings, servers)
    await migrate_database(own, "accounts")
    client, database = connect(own, "accounts")
    async with client:
        yield database


@pytest.fixture
async def plugin(database: Database, standin: Roblox) -> AsyncIterator[RobloxRanking]:
    """The plugin, which has learnt the roles and asked for nothing else."""
    async with ranking(database, standin) as own:
        standin.requests.clear()
        yield own


def changes(standin: Roblox) -> list[str]:
    """The calls that change something, in order."""
    return [one.path.rpartition(":")[2] for one in standin.requests if one.method != "GET"]


async def read(plugin: RobloxRanking, user: int) -> int | None:
    """The rankid of a user whom a player waits for."""
    return await plugin.read(user, Urgency.PLAYER)


# ----------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", LADDER)
async def test_a_role_is_read_as_its_rank(plugin: RobloxRanking, standin: Roblox, name: str) -> None:
    assert await read(plugin, standin.add_member(name).id) == LADDER[name]


async def test_who_holds_no_role_of_the_ladder_has_the_lowest_rank(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    builder = standin.add_role("Builder", 200)
    assert await read(plugin, standin.add_member().id) == 0
    assert await read(plugin, standin.add_member(builder).id) == 0


async def test_who_is_not_in_the_group_has_no_rank(plugin: RobloxRanking, standin: Roblox) -> None:
    assert await read(plugin, standin.add_user().id) is None


async def test_the_highest_of_several_roles_counts(plugin: RobloxRanking, standin: Roblox) -> None:
    builder = standin.add_role("Builder", 200)
    member = standin.add_member("Manager", builder, "Cast Member", "University Student")
    assert await read(plugin, member.id) == MANAGER


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html>",
        b"{}",
        b"[]",
        b'{"groupMemberships":null}',
        b'{"groupMemberships":[{"user":"users/1","roles":[]}]}',
        b'{"groupMemberships":[{"user":"users/USER"}]}',
        b'{"groupMemberships":[{"user":"users/USER","roles":["groups/1/roles/none"]}]}',
    ],
    ids=repr,
)
async def test_a_surprise_is_no_rank(plugin: RobloxRanking, standin: Roblox, body: bytes) -> None:
    user = standin.add_member("Manager").id
    standin.faults.next(Forged(200, body.replace(b"USER", str(user).encode())))
    with pytest.raises(Unavailable):
        await read(plugin, user)


async def test_fields_that_nobody_knows_and_numbers_as_such_are_fine(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    role = standin.role("Manager").id
    membership = {"user": 17, "roles": [role, f"groups/{standin.group}/roles/{standin.base.id}"], "new": {}}
    standin.faults.next(Forged(200, {"groupMemberships": [membership], "nextPageToken": None, "new": 1}))
    assert await read(plugin, 17) == MANAGER


@pytest.mark.parametrize(
    "fault",
    [
        Fault.BROKEN,
        Fault.AWAY,
        Fault.LIMITED,
        Fault.CUT,
        Fault.HANG,
        GATEWAY_401,
        GATEWAY_403,
        ABORTED,
        Forged(400, {"code": "INVALID_ARGUMENT", "message": "The filter is invalid."}),
        Forged(404, {"code": "NOT_FOUND", "message": "The group does not exist."}),
        Forged(418, b"short and stout"),
    ],
    ids=str,
)
async def test_an_outage_is_no_rank_and_ends_soon(
    plugin: RobloxRanking, standin: Roblox, fault: Fault | Forged
) -> None:
    user = standin.add_member("Manager").id
    standin.faults.always(fault)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await read(plugin, user)
    assert time.monotonic() - began < 3


async def test_a_key_that_is_not_accepted_is_complained_of_once_in_a_while_and_not_shown(
    plugin: RobloxRanking, standin: Roblox, caplog: pytest.LogCaptureFixture
) -> None:
    user = standin.add_member().id
    standin.keys[KEY].is_enabled = False
    for _ in range(3):
        with pytest.raises(Unavailable):
            await read(plugin, user)
    loud = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(loud) == 1
    assert "CALLBOARD_ROBLOX_KEY" in loud[0].getMessage()
    assert KEY not in caplog.text
    standin.keys[KEY].is_enabled = True
    assert await read(plugin, user) == 0


async def test_each_replica_keeps_to_its_part_of_the_limit(database: Database, standin: Roblox) -> None:
    user = standin.add_member().id
    async with ranking(database, standin, replicas=20) as plugin:
        standin.requests.clear()
        results = await asyncio.gather(*(read(plugin, user) for _ in range(20)), return_exceptions=True)
    assert 1 <= results.count(0) <= 2
    assert all(isinstance(result, Unavailable) for result in results if result != 0)
    assert len(standin.requests) == results.count(0)


# ----------------------------------------------------------------------------------------------- setting


async def test_a_member_is_given_the_role_of_the_rank(plugin: RobloxRanking, standin: Roblox) -> None:
    user = standin.add_member().id
    await plugin.set(user, TRAINEE)
    assert standin.holds(user) == {"University Student"}
    assert await read(plugin, user) == TRAINEE
    assert changes(standin) == ["assignRole"]


@pytest.mark.parametrize("rankid", [TRAINEE, SENIOR])
async def test_the_role_of_the_former_rank_is_taken_after_the_new_one_is_given(
    plugin: RobloxRanking, standin: Roblox, rankid: int
) -> None:
    user = standin.add_member("Cast Member").id
    await plugin.set(user, rankid)
    assert await read(plugin, user) == rankid
    assert len(standin.members[user]) == 1
    assert changes(standin) == ["assignRole", "unassignRole"]


async def test_roles_that_are_no_ranks_stay(plugin: RobloxRanking, standin: Roblox) -> None:
    builder, friend = standin.add_role("Builder", 200), standin.add_role("Friend", 1)
    user = standin.add_member("Cast Member", builder, "Manager", friend).id
    await plugin.set(user, SENIOR)
    assert standin.holds(user) == {"Senior Cast Member", "Builder", "Friend"}


async def test_a_rank_that_is_there_changes_nothing(plugin: RobloxRanking, standin: Roblox) -> None:
    user = standin.add_member().id
    for _ in range(3):
        await plugin.set(user, CAST)
    assert changes(standin) == ["assignRole"]


async def test_the_lowest_rank_is_to_hold_no_role_of_the_ladder(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    builder = standin.add_role("Builder", 200)
    user = standin.add_member("Cast Member", builder, "Manager").id
    await plugin.set(user, 0)
    assert standin.holds(user) == {"Builder"}
    await plugin.set(standin.add_user().id, 0)
    assert changes(standin) == ["unassignRole", "unassignRole"]


async def test_the_owner_keeps_the_owners_role(database: Database, standin: Roblox) -> None:
    standin.role("Owner").name = "Executive"
    del standin.roles[standin.ladder["Executive"].id]
    user = standin.add_member(standin.owner).id
    async with ranking(database, standin, roles={"Executive": standin.owner.id}) as plugin:
        assert await read(plugin, user) == EXECUTIVE
        await plugin.set(user, TRAINEE)
    assert standin.holds(user) == {"Executive", "University Student"}


async def test_whoever_asks_to_join_is_let_in_first(plugin: RobloxRanking, standin: Roblox) -> None:
    user = standin.add_user().id
    standin.join_requests |= {user, unique_id()}
    await plugin.set(user, TRAINEE)
    assert standin.holds(user) == {"University Student"}
    assert changes(standin) == ["accept", "assignRole"]
    assert user not in standin.join_requests
    assert len(standin.join_requests) == 1


async def test_who_does_not_ask_to_join_is_told_to(plugin: RobloxRanking, standin: Roblox) -> None:
    user = standin.add_user().id
    with pytest.raises(RankRefused, match="not a member of the group") as refused:
        await plugin.set(user, TRAINEE)
    assert "join it on Roblox" in (refused.value.discord or "")
    assert user not in standin.members
    assert changes(standin) == []


async def test_a_join_request_that_was_withdrawn_meanwhile_is_none(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    user = standin.add_user().id
    standin.join_requests.add(user)
    standin.faults.next(Forged(404, {"code": "NOT_FOUND", "message": "No such request."}), path=":accept")
    with pytest.raises(RankRefused) as refused:
        await plugin.set(user, TRAINEE)
    assert refused.value.discord


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("memberships", Fault.CUT),
        ("join-requests", Fault.CUT),
        (":accept", Fault.CUT),
        (":accept", Fault.HANG),
        (":assignRole", Fault.CUT),
        (":unassignRole", Fault.CLOSED),
    ],
    ids=str,
)
async def test_an_answer_that_is_lost_is_made_up_for(
    plugin: RobloxRanking, standin: Roblox, call: str, fault: Fault
) -> None:
    member, newcomer = standin.add_member("Manager").id, standin.add_user().id
    standin.join_requests.add(newcomer)
    standin.faults.next(fault, path=call)
    for user in (member, newcomer):
        await plugin.set(user, CAST)
        assert standin.holds(user) == {"Cast Member"}


async def test_what_was_left_half_done_is_finished_by_the_same_call(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    user = standin.add_member("Cast Member").id
    standin.faults.always(Fault.AWAY, path=":unassignRole")
    with pytest.raises(Unavailable):
        await plugin.set(user, MANAGER)
    assert standin.holds(user) == {"Cast Member", "Manager"}
    standin.faults.clear()
    assert await read(plugin, user) == MANAGER
    await plugin.set(user, MANAGER)
    assert standin.holds(user) == {"Manager"}


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND"])
async def test_what_roblox_refuses_is_refused_with_its_reason(
    plugin: RobloxRanking, standin: Roblox, code: str
) -> None:
    user = standin.add_member().id
    reason = "No.\r\nNever\x1b[31m: " + "x" * 5000
    standin.faults.always(Forged(403, {"code": code, "message": reason, "details": []}), path=":assignRole")
    with pytest.raises(RankRefused) as refused:
        await plugin.set(user, TRAINEE)
    message = refused.value.message or ""
    assert f"Roblox: {code} No. Never [31m: xxx" in message
    assert len(message) < 300


async def test_a_key_without_the_scope_and_the_keys_own_owner_are_refused(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    user = standin.add_member().id
    standin.keys[KEY] = Key(operations={"read"})
    with pytest.raises(RankRefused, match="group:write"):
        await plugin.set(user, TRAINEE)
    standin.keys[KEY] = Key(owner=user)
    with pytest.raises(RankRefused, match="your own role"):
        await plugin.set(user, TRAINEE)


@pytest.mark.parametrize("call", ["memberships", ":assignRole"])
@pytest.mark.parametrize(
    "fault",
    [Fault.LIMITED, Fault.BROKEN, Fault.GARBAGE, Fault.HANG, GATEWAY_401, GATEWAY_403, ABORTED],
    ids=str,
)
async def test_an_outage_is_no_refusal_and_ends_in_time(
    plugin: RobloxRanking, standin: Roblox, fault: Fault | Forged, call: str
) -> None:
    standin.faults.retry_after = 5
    user = standin.add_member("Cast Member").id
    standin.faults.always(fault, path=call)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await plugin.set(user, TRAINEE)
    assert time.monotonic() - began < 4


async def test_of_two_who_rank_somebody_at_once_one_prevails(plugin: RobloxRanking, standin: Roblox) -> None:
    user = standin.add_member("Cast Member").id
    await asyncio.gather(plugin.set(user, MANAGER), plugin.set(user, MANAGER), plugin.set(user, MANAGER))
    assert standin.holds(user) == {"Manager"}


# ------------------------------------------------------------------------------------------------- roles


async def test_a_rank_without_a_role_is_told_and_refused_and_the_others_work(
    database: Database, standin: Roblox, caplog: pytest.LogCaptureFixture
) -> None:
    standin.add_role("Also Cast", CAST)
    del standin.roles[standin.ladder["Executive"].id]
    user = standin.add_member("Manager").id
    async with ranking(database, standin) as plugin:
        for name, rankid in (("Executive", EXECUTIVE), ("Cast Member", CAST)):
            assert f'the rank "{name}" ({rankid}) has no role' in caplog.text
            with pytest.raises(RankRefused, match=f"no role for the rank {name}"):
                await plugin.set(user, rankid)
        await plugin.set(user, SENIOR)
    assert standin.holds(user) == {"Senior Cast Member"}


async def test_a_role_can_be_given_by_its_id(database: Database, standin: Roblox) -> None:
    also_cast = standin.add_role("Also Cast", CAST)
    async with ranking(database, standin, roles={"cast member": also_cast.id}) as plugin:
        user = standin.add_member("Cast Member").id
        assert await read(plugin, user) == 0
        await plugin.set(user, CAST)
    assert standin.holds(user) == {"Cast Member", "Also Cast"}


async def test_an_id_that_is_given_no_more_is_forgotten(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Cast Member").id
    wrong = standin.add_role("Wrong", 99)
    for roles, rankid in (({}, CAST), ({"Cast Member": wrong.id}, 0), ({}, CAST)):
        async with ranking(database, standin, roles=roles) as plugin:
            assert await read(plugin, user) == rankid


async def test_ranks_that_are_numbered_anew_change_nothing(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Cast Member").id
    async with ranking(database, standin) as plugin:
        await read(plugin, user)
    standin.ladder["Cast Member"].rank = 25
    usurper = standin.add_role("Usurper", CAST)
    async with ranking(database, standin) as plugin:
        assert await read(plugin, user) == CAST
        assert await read(plugin, standin.add_member(usurper).id) == 0
    del standin.roles[standin.ladder["Cast Member"].id]
    standin.members.clear()
    async with ranking(database, standin) as plugin:
        assert await read(plugin, standin.add_member(usurper).id) == CAST


async def test_a_group_of_many_roles_is_read_page_by_page(database: Database, standin: Roblox) -> None:
    for number in range(50):
        standin.add_role(f"Department {number}", 100 + number)
    ids = dict(zip(LADDER, sorted(standin.roles)[-len(LADDER) :], strict=True))
    async with ranking(database, standin, roles=ids) as plugin:
        for name, rankid in LADDER.items():
            assert await read(plugin, standin.add_member(standin.roles[ids[name]]).id) == rankid
    pages = standin.received("/roles")
    assert [page.query["maxPageSize"] for page in pages] == ["20"] * 3


async def test_a_first_start_waits_for_roblox_and_does_not_fail(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Manager").id
    standin.faults.always(Fault.CLOSED)
    async with ranking(database, standin) as plugin:
        standin.faults.clear()
        for call in (read(plugin, user), plugin.members(""), plugin.set(user, CAST)):
            with pytest.raises(Unavailable):
                await call

        async def is_read() -> bool:
            try:
                return await read(plugin, user) == MANAGER
            except Unavailable:
                return False

        await wait_until(is_read)


async def test_a_later_start_knows_the_roles_without_roblox(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Manager").id
    async with ranking(database, standin) as plugin:
        await read(plugin, user)
    standin.faults.always(Fault.BROKEN, path="/roles")
    async with ranking(database, standin) as plugin:
        assert await read(plugin, user) == MANAGER


@pytest.mark.parametrize("body", [{}, {"groupRoles": []}, {"groupRoles": [{"id": "1"}]}], ids=str)
async def test_a_surprise_instead_of_roles_makes_nobody_forget_them(
    database: Database, standin: Roblox, body: dict[str, object]
) -> None:
    user = standin.add_member("Manager").id
    async with ranking(database, standin) as plugin:
        await read(plugin, user)
    standin.faults.next(Forged(200, body))
    async with ranking(database, standin) as plugin:
        assert await read(plugin, user) == MANAGER


# ----------------------------------------------------------------------------------------------- members


async def walk(plugin: RobloxRanking) -> list[tuple[int, int]]:
    """All members, page by page."""
    found: list[tuple[int, int]] = []
    cursor = ""
    while True:
        page = await plugin.members(cursor)
        found += page.members
        cursor = page.next
        if not cursor:
            return found


async def test_all_members_who_hold_a_rank_are_listed_page_by_page(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    builder = standin.add_role("Builder", 200)
    expected = {}
    for _ in range(50):
        standin.add_member()
        standin.add_member(builder)
        for name, rankid in LADDER.items():
            expected[standin.add_member(name, "University Student").id] = rankid
    assert dict(await walk(plugin)) == expected
    pages = standin.received("/memberships")
    assert [page.query["maxPageSize"] for page in pages] == ["100"] * 4


async def test_an_empty_group_has_one_empty_page(plugin: RobloxRanking) -> None:
    page = await plugin.members("")
    assert (list(page.members), page.next) == ([], "")


async def test_a_place_in_the_list_that_is_lost_is_told(plugin: RobloxRanking, standin: Roblox) -> None:
    standin.add_member("Manager")
    with pytest.raises(CursorLost):
        await plugin.members("a-token-of-last-year")


@pytest.mark.parametrize("fault", [Fault.BROKEN, Fault.GARBAGE, GATEWAY_401, Forged(200, {})], ids=str)
async def test_a_list_that_is_broken_is_an_outage(
    plugin: RobloxRanking, standin: Roblox, fault: Fault | Forged
) -> None:
    standin.faults.always(fault)
    with pytest.raises(Unavailable):
        await plugin.members("")


async def test_it_is_what_accounts_takes_for_a_ranking_that_is_kept_outside(plugin: RobloxRanking) -> None:
    assert isinstance(plugin, OutsideRanking)
    assert isinstance(plugin, Examinable)


# ----------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": None}, "plugins.options.roblox.group"),
        ({"group": 0}, "plugins.options.roblox.group"),
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


async def test_the_doctor_warns_of_a_key_that_expires_soon(plugin: RobloxRanking, standin: Roblox) -> None:
    standin.keys[KEY].expires = datetime.now(UTC) + timedelta(days=3)
    (warning,) = [finding async for finding in plugin.examine() if finding.mend]
    assert warning.is_right
    assert "expires on" in warning.what


async def test_the_doctor_lists_the_roles_where_one_is_missing(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    del standin.roles[standin.ladder["Manager"].id]
    (wrong,) = [finding async for finding in plugin.examine() if not finding.is_right]
    for role in standin.roles.values():
        assert f'"{role.name}" is {role.id} (rank {role.rank})' in wrong.mend
