"""Ranks as the roles of a group on Roblox: a member's is read, and set."""

import asyncio
import time

import pytest

from accounts.errors import RankRefused
from accounts.plugins.roblox import RobloxRanking
from common.errors import Unavailable
from common.mongo import Database
from tests.accounts.on_roblox import (
    CAST,
    EXECUTIVE,
    GATEWAY_401,
    MANAGER,
    SENIOR,
    TRAINEE,
    changes,
    ranking,
    read,
)
from tests.standins import Fault, Forged
from tests.standins.roblox import KEY, LADDER, Key, Roblox
from tests.support import unique_id, wait_until

GATEWAY_403 = Forged(403, {"errors": [{"code": 0, "message": "The key may not be used from here"}]})
ABORTED = Forged(409, {"code": "ABORTED", "message": "Try again."})


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
        b"null",
        b'{"groupMemberships":[{"user":"users/USER","roles":["groups/1/roles/none"]}]}',
        b'{"groupMemberships":[{"user":"users/USER","roles":[99999999999999999999]}]}',
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


@pytest.mark.parametrize("roles", [{}, {"roles": []}, {"roles": None}, {"roles": None, "role": ""}], ids=str)
async def test_a_member_of_whom_no_role_is_told_has_the_lowest_rank(
    plugin: RobloxRanking, standin: Roblox, roles: dict[str, object]
) -> None:
    standin.faults.next(Forged(200, {"groupMemberships": [{"user": "users/17", **roles}]}))
    assert await read(plugin, 17) == 0


async def test_the_highest_role_is_read_where_it_stands_alone(plugin: RobloxRanking, standin: Roblox) -> None:
    role = f"groups/{standin.group}/roles/{standin.role('Manager').id}"
    standin.faults.next(Forged(200, {"groupMemberships": [{"user": "users/17", "role": role}]}))
    assert await read(plugin, 17) == MANAGER


async def test_an_empty_page_that_is_not_the_last_does_not_say_that_somebody_is_no_member(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    user = standin.add_member("Manager").id
    role = f"groups/{standin.group}/roles/{standin.role('Manager').id}"
    empty = Forged(200, {"groupMemberships": [], "nextPageToken": "more"})
    full = Forged(200, {"groupMemberships": [{"user": f"users/{user}", "roles": [role]}]})
    standin.faults.next(empty, full)
    assert await read(plugin, user) == MANAGER
    assert [request.query.get("pageToken") for request in standin.requests] == [None, "more"]
    standin.faults.next(empty, Forged(200, {"groupMemberships": []}))
    assert await read(plugin, user) is None
    standin.faults.next(empty, empty)
    with pytest.raises(Unavailable):
        await read(plugin, user)


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
    hurried: RobloxRanking, standin: Roblox, fault: Fault | Forged
) -> None:
    user = standin.add_member("Manager").id
    standin.faults.always(fault)

    async def ends_soon() -> bool:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await read(hurried, user)
        return time.monotonic() - began < 3

    await wait_until(ends_soon, 60)  # a machine that pauses makes one try longer, not all


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


async def test_a_group_that_roblox_does_not_know_is_complained_of_once_in_a_while(
    plugin: RobloxRanking, standin: Roblox, caplog: pytest.LogCaptureFixture
) -> None:
    standin.group = unique_id()
    for call in (read(plugin, 1), read(plugin, 2), plugin.members("")):
        with pytest.raises(Unavailable):
            await call
    (loud,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "tells nothing of the members of group" in loud.getMessage()


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
    assert standin.holds(user) == {"Cast Member"}
    assert changes(standin) == ["assignRole"] * 3  # the first of which changed something


async def test_a_rank_is_set_though_memberships_are_read_from_a_stale_copy(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    user = standin.add_member("Cast Member").id
    standin.keep_copy()
    for rankid, name in ((MANAGER, "Manager"), (TRAINEE, "University Student"), (CAST, "Cast Member")):
        await plugin.set(user, rankid)
        assert standin.holds(user) == {name}


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


async def test_the_join_request_of_somebody_else_does_not_say_that_there_is_none(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    user = standin.add_user().id
    standin.join_requests.add(user)
    standin.faults.next(Forged(200, {"groupJoinRequests": [{"user": "users/1"}]}), path="join-requests")
    with pytest.raises(Unavailable):
        await plugin.set(user, TRAINEE)
    await plugin.set(user, TRAINEE)
    assert standin.holds(user) == {"University Student"}


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
    plugin: RobloxRanking, standin: Roblox, patient: pytest.MonkeyPatch, call: str, fault: Fault
) -> None:
    patient.setattr("accounts.plugins.roblox._LONGEST_CALL_SECONDS", 4.0)  # half of it for what hangs
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
    hurried: RobloxRanking, standin: Roblox, fault: Fault | Forged, call: str
) -> None:
    standin.faults.retry_after = 5
    user = standin.add_member("Cast Member").id
    standin.faults.always(fault, path=call)

    async def ends_in_time() -> bool:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await hurried.set(user, TRAINEE)
        return time.monotonic() - began < 4

    await wait_until(ends_in_time, 60)  # a machine that pauses makes one try longer, not all


async def test_of_two_who_rank_somebody_at_once_one_prevails(plugin: RobloxRanking, standin: Roblox) -> None:
    user = standin.add_member("Cast Member").id
    await asyncio.gather(plugin.set(user, MANAGER), plugin.set(user, MANAGER), plugin.set(user, MANAGER))
    assert standin.holds(user) == {"Manager"}
