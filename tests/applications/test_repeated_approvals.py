"""POST /application/approve with an Idempotency-Key: sent again, it is the same approval."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from common.idempotency import REMEMBERED
from tests.applications.builders import (
    CAST,
    FIRST,
    GUEST,
    SECOND,
    TRAINEE,
    Park,
    begin_approval,
    let_lease_run_out,
    park,
    refusing_events,
)
from tests.applications.test_approve import ALREADY, NO_SUCH_USER, NOT_RANKED, RANKED
from tests.applications.test_repeated_uploads import IN_USE, is_replayed
from tests.support import Servers, unique_id, wait_until


def new_key() -> str:
    return f"approve-{unique_id()}"


def is_done(answer: httpx.Response, *, replayed: bool) -> bool:
    return (answer.status_code, answer.text, is_replayed(answer)) == (200, RANKED, replayed)


async def approved_once(here: Park, user: int) -> None:
    """The approval is recorded and told once."""
    assert [one["status"] for one in await here.records(user)] == ["approved"]
    assert len(await here.events(user, "application_approved")) == 1


async def attempts(here: Park, key: str) -> int:
    """How many approvals know this key."""
    return await here.database["applications"].count_documents({"attempts.id": f"bot:{key}"})


async def make_older(here: Park, user: int, age: timedelta) -> None:
    """As if the attempts at this user's approvals had come so long ago."""
    change = {"$set": {"attempts.$[].at": datetime.now(UTC) - age}}
    found = await here.database["applications"].update_many(
        {"user": user, "attempts.0": {"$exists": True}}, change
    )
    assert found.matched_count


async def test_an_approval_sent_again_is_the_same_though_they_are_a_trainee_or_cast_by_now(
    servers: Servers,
) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here, park(servers, here.accounts) as there:
        here.accounts.knows(user)
        await here.upload(user)
        assert is_done(await here.approve(user, key=key), replayed=False)
        for rank in (TRAINEE, CAST, GUEST):
            here.accounts.knows(user, rank)
            assert is_done(await there.approve(user, key=key), replayed=True)
        await approved_once(here, user)
    assert here.accounts.ranked == [user]


async def test_the_key_of_another_approval_is_refused(shared_park: Park) -> None:
    user, other, key = unique_id(), unique_id(), new_key()
    shared_park.accounts.knows(user)
    shared_park.accounts.knows(other)
    await shared_park.approve(user, FIRST, key=key)
    for answer in (
        await shared_park.approve(user, SECOND, key=key),
        await shared_park.approve(other, FIRST, key=key),
    ):
        assert (answer.status_code, answer.text) == (422, IN_USE)
    await approved_once(shared_park, user)
    assert await shared_park.records(other) == []


async def test_keys_of_different_callers_do_not_meet(shared_park: Park) -> None:
    user, other, key = unique_id(), unique_id(), new_key()
    shared_park.accounts.knows(user)
    shared_park.accounts.knows(other)
    assert is_done(await shared_park.approve(user, key=key), replayed=False)
    assert is_done(await shared_park.approve(other, key=key, caller="other-bot"), replayed=False)
    await approved_once(shared_park, other)


async def test_many_of_the_same_approval_at_once_rank_once_and_are_all_told_so(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here, park(servers, here.accounts) as there:
        here.accounts.knows(user)
        answers = await asyncio.gather(*(one.approve(user, key=key) for one in (here, there) * 4))
        assert {answer.text for answer in answers} == {RANKED}
        assert sum(map(is_replayed, answers)) == 7
        await approved_once(here, user)
    assert here.accounts.ranked == [user]


async def test_a_repeat_that_read_the_rank_after_the_first_had_set_it_is_no_refusal(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.may_read.clear()
        slow = asyncio.create_task(here.approve(user, key=key))
        await wait_until(lambda: here.accounts.reading == 1)
        async with park(servers) as there:
            there.accounts.knows(user)
            assert is_done(await there.approve(user, key=key), replayed=False)
        here.accounts.knows(user, TRAINEE)
        here.accounts.may_read.set()
        assert is_done(await slow, replayed=True)
        await approved_once(here, user)


async def test_of_two_keys_at_once_one_approves_and_the_other_is_told_that_they_are_a_trainee(
    servers: Servers,
) -> None:
    user, keys = unique_id(), [new_key(), new_key()]
    async with park(servers) as here:
        here.accounts.knows(user)
        answers = await asyncio.gather(*(here.approve(user, key=key) for key in keys))
        again = [await here.approve(user, key=key) for key in keys]
        await approved_once(here, user)
    assert sorted(answer.text for answer in answers) == sorted([RANKED, ALREADY])
    assert [answer.text for answer in again] == [answer.text for answer in answers]
    assert here.accounts.ranked == [user]


async def test_a_refused_approval_leaves_its_key_free(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        await here.upload(user)
        assert (await here.approve(user, key=key)).text == NO_SUCH_USER
        here.accounts.knows(user, TRAINEE)
        assert (await here.approve(user, key=key)).text == ALREADY
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        assert (await here.approve(user, key=key)).text == NOT_RANKED
        assert await attempts(here, key) == 0
        assert (await here.approve(user, SECOND, key=key)).text == NOT_RANKED  # of a free key
        here.accounts.fails_with = None
        assert is_done(await here.approve(user, key=key), replayed=False)
        await approved_once(here, user)


async def test_a_key_that_an_older_version_left_on_a_refused_application_is_free(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.upload(user)
        await begin_approval(here.database, user, key=key)
        await here.database["applications"].update_one({"user": user}, {"$set": {"status": "failed"}})
        await here.upload(user)
        assert is_done(await here.approve(user, key=key), replayed=False)
        assert await attempts(here, key) == 1
        assert sorted(one["status"] for one in await here.records(user)) == ["approved", "failed"]


@pytest.mark.parametrize("rankid", [GUEST, TRAINEE], ids=["before the rank", "after the rank"])
async def test_what_a_crash_left_is_finished_by_its_own_key(servers: Servers, rankid: int) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user, rankid)
        await begin_approval(here.database, user, key=key)
        await let_lease_run_out(here.database, user)
        for _ in range(2):
            assert is_done(await here.approve(user, key=key), replayed=True)
        await approved_once(here, user)


async def test_another_key_that_finishes_what_a_crash_left_is_answered_alike_when_it_comes_again(
    servers: Servers,
) -> None:
    user, crashed, key = unique_id(), new_key(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        await begin_approval(here.database, user, FIRST, key=crashed)
        await let_lease_run_out(here.database, user)
        assert is_done(await here.approve(user, SECOND, key=key), replayed=False)
        assert is_done(await here.approve(user, SECOND, key=key), replayed=True)
        assert is_done(await here.approve(user, FIRST, key=crashed), replayed=True)
        (record,) = await here.records(user)
        assert record["moderator"] == FIRST
        await approved_once(here, user)


@pytest.mark.parametrize("status", [429, 503])
async def test_while_ranks_cannot_be_set_the_same_key_finishes_its_approval_later(
    servers: Servers, status: int
) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = status
        for _ in range(2):
            assert (await here.approve(user, key=key)).text == NOT_RANKED
        assert (await here.approve(user, SECOND, key=key)).text == IN_USE
        here.accounts.fails_with = None
        assert is_done(await here.approve(user, key=key), replayed=True)
        await approved_once(here, user)


async def test_a_repeat_waits_for_the_first_and_tries_afresh_where_it_is_refused(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        here.accounts.may_answer.clear()
        first = asyncio.create_task(here.approve(user, key=key))
        await wait_until(lambda: here.accounts.ranked == [user])
        second = asyncio.create_task(here.approve(user, key=key))
        here.accounts.may_answer.set()
        assert (await first).text == NOT_RANKED
        here.accounts.fails_with = None
        assert (await second).text == RANKED
        await approved_once(here, user)


async def test_an_approval_that_could_not_be_recorded_is_finished_by_its_key(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        async with refusing_events(here.database):
            assert (await here.approve(user, key=key)).status_code == 500
        await let_lease_run_out(here.database, user)
        assert is_done(await here.approve(user, key=key), replayed=True)
        await approved_once(here, user)


async def test_a_key_is_remembered_for_seven_days_and_is_free_after_that(servers: Servers) -> None:
    user, other, key = unique_id(), unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.knows(other)
        assert is_done(await here.approve(user, key=key), replayed=False)
        await make_older(here, user, REMEMBERED - timedelta(minutes=1))
        assert is_done(await here.approve(user, key=key), replayed=True)
        await make_older(here, user, REMEMBERED + timedelta(seconds=1))
        assert (await here.approve(user, key=key)).text == ALREADY
        assert is_done(await here.approve(other, key=key), replayed=False)
        assert is_done(await here.approve(other, key=key), replayed=True)
        assert await attempts(here, key) == 1
        await approved_once(here, user)
        await approved_once(here, other)


async def test_after_seven_days_a_key_finishes_the_approval_that_still_waits(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here:
        here.accounts.knows(user)
        await begin_approval(here.database, user, key=key)
        await let_lease_run_out(here.database, user)
        await make_older(here, user, REMEMBERED + timedelta(seconds=1))
        assert is_done(await here.approve(user, key=key), replayed=False)
        assert is_done(await here.approve(user, key=key), replayed=True)
        await approved_once(here, user)
