"""The walk through all members: once at a time, to its end whatever happens, and never against anybody."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from accounts.models import Sync
from accounts.repository import Syncs
from common.background import background
from common.mongo import Database
from tests.accounts.builders import (
    CAST,
    GUEST,
    MANAGER,
    TRAINEE,
    Company,
    outside_database,
    outside_park,
    rank_changes,
    walker,
)
from tests.support import Servers, unique_id, wait_until
from tests.support.machine import machine
from tests.support.plans import listen, slow_plans

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
async def database(servers: Servers) -> AsyncIterator[Database]:
    """The database, with nobody in it."""
    async with outside_database(servers) as found:
        for name in ("accounts", "syncs", "outbox"):
            await found[name].delete_many({})
        yield found


async def ranks(database: Database) -> dict[int, int]:
    """What is stored."""
    return {account["id"]: account["rankid"] async for account in database["accounts"].find()}


async def let_lease_run_out(database: Database) -> None:
    """As if its time had passed."""
    await database["syncs"].update_one(
        {}, {"$set": {"claimed_until": datetime.now(UTC) - timedelta(seconds=1)}}
    )


async def state(database: Database) -> Sync:
    """How the walks stand."""
    return await Syncs(database).find()


def members(number: int, rankid: int = CAST) -> dict[int, int]:
    """So many members of the group."""
    return {unique_id(): rankid for _ in range(number)}


async def test_every_member_with_a_rank_is_stored_and_told_and_guests_are_not(database: Database) -> None:
    cast, guest = members(5), members(1, GUEST)
    company = Company(cast | guest, has_list=True)
    await walker(database, company)[0].look()
    assert await ranks(database) == cast
    assert company.asked == []
    last = (await state(database)).last
    assert last is not None
    assert (last.seen, last.changed, last.missed) == (6, 5, 0)
    for user in cast:
        assert await rank_changes(database, user) == [CAST]


async def test_a_second_walk_tells_only_what_changed_and_makes_all_ranks_young(database: Database) -> None:
    company = Company(members(5), has_list=True)
    one, _ = walker(database, company)
    await one.look()
    promoted = next(iter(company.ranks))
    company.ranks[promoted] = MANAGER
    await Syncs(database).request()
    await one.look()
    last = (await state(database)).last
    assert last is not None
    assert (last.seen, last.changed) == (5, 1)
    assert await rank_changes(database, promoted) == [CAST, MANAGER]
    assert await database["outbox"].count_documents({}) == 6
    assert await database["accounts"].count_documents({"rank_read_at": {"$gte": last.began_at}}) == 5


async def test_a_walk_is_due_when_the_last_began_long_ago_or_when_asked_for(database: Database) -> None:
    company = Company(members(1), has_list=True)
    one, _ = walker(database, company)
    for _ in range(3):
        await one.look()
    assert company.pages == [""]
    await Syncs(database).request()
    for _ in range(3):
        await one.look()
    assert company.pages == ["", ""]
    long_ago = datetime.now(UTC) - timedelta(minutes=16)
    await database["syncs"].update_one({}, {"$set": {"last.began_at": long_ago}})
    await one.look()
    assert company.pages == ["", "", ""]


async def test_a_walk_that_is_asked_for_while_another_is_under_way_is_made_after_it(
    database: Database,
) -> None:
    company = Company(members(3), has_list=True)
    one, _ = walker(database, company)
    company.may_answer.clear()
    walking = asyncio.create_task(one.look())
    await wait_until(lambda: company.pages == [""])
    await Syncs(database).request()
    company.may_answer.set()
    await walking
    assert (await state(database)).requested_at is not None
    await one.look()
    assert company.pages == ["", "2"] * 2
    assert (await state(database)).requested_at is None


async def test_a_walk_that_a_crash_ended_is_finished_by_another_where_it_stood(database: Database) -> None:
    company = Company(members(7), has_list=True)
    company.stuck = "4"
    first, second = walker(database, company)[0], walker(database, company)[0]
    walking = asyncio.create_task(first.look())
    await wait_until(lambda: company.pages == ["", "2", "4"])
    walking.cancel()
    await asyncio.wait([walking])
    await second.look()  # the lease holds
    assert company.pages == ["", "2", "4"]
    await let_lease_run_out(database)
    began_at = (await state(database)).began_at
    company.stuck = None
    await second.look()
    assert company.pages == ["", "2", "4", "4", "6"]
    last = (await state(database)).last
    assert last is not None
    assert (last.began_at, last.seen) == (began_at, 7)
    assert await ranks(database) == company.ranks


async def test_of_many_replicas_one_walks(database: Database) -> None:
    company = Company(members(9), has_list=True)
    await asyncio.gather(*(walker(database, company)[0].look() for _ in range(4)))
    assert company.pages == ["", "2", "4", "6", "8"]
    assert await ranks(database) == company.ranks


async def test_one_who_lost_the_lease_leaves_the_walk_to_the_other(database: Database) -> None:
    company = Company(members(5), has_list=True)
    first, second = walker(database, company)[0], walker(database, company)[0]
    company.may_answer.clear()
    slow = asyncio.create_task(first.look())
    await wait_until(lambda: company.pages == [""])
    await let_lease_run_out(database)
    other = asyncio.create_task(second.look())
    await wait_until(lambda: company.pages == ["", ""])
    company.may_answer.set()
    await asyncio.gather(slow, other)
    assert company.pages == ["", "", "2", "4"]
    last = (await state(database)).last
    assert last is not None
    assert last.seen == 5


async def test_a_lost_place_in_the_list_makes_the_walk_begin_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.sync._FIRST_PAUSE_SECONDS", 0.02)
    company = Company(members(5), has_list=True)
    company.lost = ["4"]
    await walker(database, company)[0].look()
    assert company.pages == ["", "2", "4", "", "2", "4"]
    last = (await state(database)).last
    assert last is not None
    assert last.seen == 5


async def test_a_place_that_is_lost_again_and_again_is_told_and_looked_for_ever_more_seldom(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.sync._FIRST_PAUSE_SECONDS", 0.02)
    company = Company(members(3), has_list=True)
    company.lost = ["2"] * 100
    began = time.monotonic()
    walking = asyncio.create_task(walker(database, company)[0].look())

    async def is_told() -> bool:
        return "its place in the list was lost" in ((await state(database)).trouble or "")

    await wait_until(is_told)  # which it is for ever longer, until it is found
    await wait_until(lambda: len(company.lost) <= 94)
    times = 100 - len(company.lost)
    company.lost.clear()
    await walking
    assert time.monotonic() - began > 0.02 * (2**times - 1) / 2
    assert company.pages == ["", "2"] * (times + 1)
    last = (await state(database)).last
    assert last is not None
    assert last.seen == 3


async def test_while_the_provider_is_down_the_walk_waits_and_goes_on_where_it_stood(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.sync._FIRST_PAUSE_SECONDS", 0.02)
    company = Company(members(5), has_list=True)
    company.may_answer.clear()
    walking = asyncio.create_task(walker(database, company)[0].look())
    await wait_until(lambda: company.pages == [""])
    company.is_down = True
    company.may_answer.set()

    async def is_told() -> bool:
        return (await state(database)).trouble == "the company is unavailable, try again"

    await wait_until(is_told)
    await wait_until(lambda: len(company.pages) > 2)
    company.is_down = False
    await walking
    after = await state(database)
    assert after.last is not None
    assert (after.last.seen, after.trouble, after.claimed_by) == (5, None, None)


async def test_a_list_that_leads_back_to_where_it_stands_is_an_outage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.sync._FIRST_PAUSE_SECONDS", 0.02)
    company = Company(members(5), has_list=True)
    company.turning = "2"
    walking = asyncio.create_task(walker(database, company)[0].look())

    async def is_told() -> bool:
        return (await state(database)).trouble is not None

    await wait_until(is_told)
    assert (await state(database)).seen == 2
    company.turning = None
    await walking
    last = (await state(database)).last
    assert last is not None
    assert last.seen == 5


async def test_one_who_cannot_be_asked_for_keeps_their_rank_and_holds_up_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.sync._FIRST_PAUSE_SECONDS", 0.01)
    strange, gone = sorted(members(2))
    for user in (strange, gone):
        await database["accounts"].insert_one(
            {"id": user, "points": 0, "rankid": CAST, "rank_version": 1, "rank_read_at": LONG_AGO}
        )
    company = Company(members(3), has_list=True)
    company.strange = {strange}
    one, believed = walker(database, company)
    await one.look()
    assert await ranks(database) == company.ranks | {strange: CAST, gone: GUEST}
    last = (await state(database)).last
    assert last is not None
    assert (last.seen, last.missed) == (3, 1)
    assert believed.known(unique_id(), None) is None  # the list is not relied on
    assert 2 <= company.asked.count(strange) <= 20


async def test_members_who_left_get_the_lowest_rank(database: Database) -> None:
    company = Company(members(4), has_list=True)
    one, _ = walker(database, company)
    await one.look()
    gone = next(iter(company.ranks))
    del company.ranks[gone]
    await Syncs(database).request()
    await one.look()
    assert await ranks(database) == company.ranks | {gone: GUEST}
    assert await rank_changes(database, gone) == [CAST, GUEST]
    assert company.asked == [gone]
    last = (await state(database)).last
    assert last is not None
    assert (last.seen, last.changed, last.missed) == (3, 1, 0)


async def test_a_broken_list_demotes_nobody_and_is_not_relied_on(database: Database) -> None:
    company = Company(members(6), has_list=True)
    one, kept = walker(database, company)
    await one.look()
    assert kept.known(unique_id(), None) is not None
    company.lacking = set(list(company.ranks)[2:])
    await database["syncs"].delete_many({})
    other, believed = walker(database, company)
    await other.look()
    assert await ranks(database) == company.ranks
    assert set(company.asked) == company.lacking
    last = (await state(database)).last
    assert last is not None
    assert last.missed == 4
    assert believed.known(unique_id(), None) is None
    assert await database["outbox"].count_documents({}) == 6


async def test_a_list_of_which_a_part_cannot_be_read_is_not_relied_on(database: Database) -> None:
    company = Company(members(3), has_list=True)
    company.omitted = 1
    one, believed = walker(database, company)
    await one.look()
    assert await ranks(database) == company.ranks
    last = (await state(database)).last
    assert last is not None
    assert (last.seen, last.missed) == (3, 2)  # on two pages
    assert believed.known(unique_id(), None) is None


async def test_those_stored_before_ages_were_are_asked_for_too(database: Database) -> None:
    user = unique_id()
    await database["accounts"].insert_one({"id": user, "points": 3, "rankid": CAST})
    company = Company(has_list=True)
    await walker(database, company)[0].look()
    assert await ranks(database) == {user: GUEST}
    assert company.asked == [user]


async def test_one_who_was_ranked_while_the_list_was_read_stays_so(database: Database) -> None:
    user = unique_id()
    company = Company({user: GUEST} | members(3), has_list=True)
    await database["accounts"].insert_one({"id": user, "points": 0, "rankid": GUEST, "rank_version": 1})
    one, _ = walker(database, company)
    company.may_answer.clear()
    walking = asyncio.create_task(one.look())
    await wait_until(lambda: company.pages == [""])
    decided: dict[str, Any] = {"rankid": TRAINEE, "rank_version": 2, "rank_read_at": datetime.now(UTC)}
    await database["accounts"].update_one({"id": user}, {"$set": decided})
    company.may_answer.set()  # with the list as it was
    await walking
    assert (await ranks(database))[user] == TRAINEE


@pytest.mark.parametrize("is_listed", [True, False])
async def test_one_who_was_just_ranked_is_not_undone_by_a_list_from_a_stale_copy(
    database: Database, *, is_listed: bool
) -> None:
    user = unique_id()
    company = Company(({user: CAST} if is_listed else {}) | members(3), has_list=True)
    before = CAST if is_listed else GUEST
    moment = datetime.now(UTC) - timedelta(seconds=1)
    decided: dict[str, Any] = {"rankid": TRAINEE, "rank_version": 2, "ranks_before": [before]}
    await database["accounts"].insert_one(
        {"id": user, "points": 0, "rank_set_at": moment, "rank_read_at": moment, **decided}
    )
    one, _ = walker(database, company)
    await one.look()
    assert await ranks(database) == company.ranks | {user: TRAINEE}
    assert company.asked == []
    assert (last := (await state(database)).last) is not None
    assert (last.changed, last.missed) == (3, 0)
    await database["accounts"].update_one({"id": user}, {"$set": {"rank_set_at": LONG_AGO}})
    await Syncs(database).request()
    await one.look()  # and if it was no copy, it is believed then
    assert await ranks(database) == company.ranks | {user: before}
    assert await rank_changes(database, user) == [before]


async def test_one_who_was_ranked_in_the_millisecond_of_the_reading_stays_so(database: Database) -> None:
    user = unique_id()
    moment = datetime.now(UTC).replace(microsecond=500_100)
    decided: dict[str, Any] = {
        "rankid": TRAINEE,
        "rank_version": 2,
        "rank_read_at": moment.replace(microsecond=500_900),
    }
    await database["accounts"].insert_one({"id": user, "points": 0, **decided})
    await walker(database, Company())[1].record({user: GUEST}, moment)
    assert await ranks(database) == {user: TRAINEE}


async def test_after_a_walk_those_without_a_rank_are_not_asked_for_until_the_next_is_due(
    servers: Servers,
) -> None:
    stored, stranger = unique_id(), unique_id()
    company = Company(members(3), has_list=True)
    async with outside_park(servers, company) as park:
        await park.store(stored, GUEST, hours=1)

        # What is stored of the walk's end is there a moment before the replica relies on it.
        await wait_until(lambda: park.service._ranks.known(stranger, None) is not None)
        company.asked.clear()
        for user in (stored, stranger):
            answer = await park.connect(user)
            assert answer.json()["clearance"] == 0
            assert int(answer.headers["Callboard-Rank-Age"]) < 60
        assert company.asked == []
        assert await park.account(stranger) is None
        company.ranks[stranger] = MANAGER
        long_ago = datetime.now(UTC) - timedelta(minutes=16)
        company.has_list = False
        await park.database["syncs"].update_one({}, {"$set": {"last.began_at": long_ago}})

        async def is_asked() -> bool:
            return await park.clearance(stranger) == 3

        await wait_until(is_asked)


async def test_no_query_of_a_walk_reads_all_accounts(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = listen(monkeypatch)
    company = Company(members(3), has_list=True)
    async with outside_database(servers) as database:
        await database["syncs"].delete_one({"_id": "ranks"})
        one, _ = walker(database, company)
        await one.look()
        del company.ranks[next(iter(company.ranks))]
        await Syncs(database).request()
        await one.look()
        assert ("find", "accounts") in sent.targets
        assert await slow_plans(database, sent) == []


# ---------------------------------------------------------------------------------- clocks, and outages


async def test_a_lease_that_a_wrong_clock_took_keeps_nobody_away(database: Database) -> None:
    company = Company(members(1), has_list=True)
    await Syncs(database).claim("somebody")
    await walker(database, company)[0].look()
    assert company.pages == []
    next_year = datetime.now(UTC) + timedelta(days=365)
    await database["syncs"].update_one({}, {"$set": {"claimed_until": next_year}})
    await walker(database, company)[0].look()
    assert company.pages == [""]


async def test_a_walk_that_seems_to_have_begun_in_the_future_is_not_the_last(database: Database) -> None:
    company = Company(members(1), has_list=True)
    one, believed = walker(database, company)
    await one.look()
    next_year = datetime.now(UTC) + timedelta(days=365)
    await database["syncs"].update_one({}, {"$set": {"last.began_at": next_year}})
    believed.note_list((await state(database)).last)
    stranger = unique_id()
    assert believed.known(stranger, None) is None
    assert (await believed.ask(stranger, None)).rankid == GUEST
    assert believed.known(stranger, None) is not None  # what was learnt in truth counts
    await one.look()
    assert company.pages == ["", ""]


async def test_a_walk_under_way_when_the_clock_is_set_back_begins_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.sync._FIRST_PAUSE_SECONDS", 0.02)
    company = Company(members(5), has_list=True)
    company.stuck = "2"
    first, second = walker(database, company)[0], walker(database, company)[0]
    walking = asyncio.create_task(first.look())
    await wait_until(lambda: company.pages == ["", "2"])
    walking.cancel()
    await asyncio.wait([walking])
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    await database["syncs"].update_one({}, {"$set": {"began_at": in_an_hour}})
    await let_lease_run_out(database)
    company.stuck = None
    await second.look()
    assert company.pages == ["", "2", "", "2", "4"]
    assert company.asked == []
    last = (await state(database)).last
    assert last is not None
    assert last.began_at < datetime.now(UTC)


async def test_the_loop_of_walks_survives_an_outage_of_mongodb_and_goes_on_where_it_stood(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("accounts.sync._LOOK_SECONDS", 0.1)
    monkeypatch.setenv("CALLBOARD_PATIENCE", "1")
    company = Company(members(7), has_list=True)
    company.stuck = "4"
    async with (
        machine() as here,
        outside_database(here.servers) as database,
        background(walker(database, company)[0].run),
    ):
        await wait_until(lambda: company.pages[-1:] == ["4"])
        before = len(company.pages)
        await here.kill("mongod")
        company.stuck = None
        await wait_until(lambda: "the sync of ranks waits for MongoDB" in caplog.text, 60)
        await here.start("mongod")

        async def is_complete() -> bool:
            with suppress(PyMongoError):
                return (await state(database)).last is not None
            return False

        await wait_until(is_complete, 60)
        # More than once where MongoDB, just started, takes its time.
        assert [page for page, _ in groupby(company.pages[before:])] == ["4", "6"]
        assert await ranks(database) == company.ranks
        await Syncs(database).request()  # and it walks again
        before = len(company.pages)
        again = ["", "2", "4", "6"]
        await wait_until(lambda: [page for page, _ in groupby(company.pages[before:])] == again)


async def test_an_outage_of_days_is_waited_for_as_one_of_minutes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.sync._LONGEST_PAUSE_SECONDS", 0.01)
    one, _ = walker(database, Company())
    await Syncs(database).claim(one._name)
    assert await one._pause(5000, "the company is away") is not None
    assert (await state(database)).trouble == "the company is away"
