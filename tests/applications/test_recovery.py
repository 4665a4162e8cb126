"""Approvals whose process died halfway are finished exactly once, by the next call or after a restart."""

import asyncio
import time

import pytest

from tests.applications.builders import (
    CAST,
    FIRST,
    GUEST,
    SECOND,
    TRAINEE,
    Accounts,
    Park,
    begin_approval,
    database,
    let_lease_run_out,
    park,
    refusing_events,
)
from tests.applications.test_approve import ALREADY, NOT_RANKED, RANKED
from tests.support import Servers, unique_id, wait_until


async def is_approved(here: Park, user: int) -> bool:
    return [record["status"] for record in await here.records(user)] == ["approved"]


@pytest.mark.parametrize("rankid", [GUEST, TRAINEE], ids=["before the rank", "after the rank"])
async def test_what_a_crash_left_is_finished_once_after_a_restart(servers: Servers, rankid: int) -> None:
    user, accounts = unique_id(), Accounts()
    accounts.knows(user, rankid)
    async with database(servers) as applications:
        await begin_approval(applications, user, FIRST)
        await let_lease_run_out(applications, user)
    async with park(servers, accounts) as here, park(servers, accounts) as there:
        await wait_until(lambda: is_approved(here, user))
        assert len(await here.events(user, "application_approved")) == 1
        assert (await here.approve(user)).text == ALREADY
        assert (await there.approve(user)).text == ALREADY
        (record,) = await here.records(user)
    assert record["moderator"] == FIRST
    assert accounts.ranks[user] == TRAINEE
    assert accounts.ranked == [user]


@pytest.mark.parametrize("rankid", [GUEST, TRAINEE], ids=["before the rank", "after the rank"])
async def test_what_a_crash_left_is_finished_once_by_the_next_call(servers: Servers, rankid: int) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user, rankid)
        await here.upload(user)
        await begin_approval(here.database, user, FIRST)
        await let_lease_run_out(here.database, user)
        assert (await here.approve(user, SECOND)).text == RANKED
        (record,) = await here.records(user)
        assert (record["status"], record["moderator"]) == ("approved", FIRST)
        assert (await here.approve(user)).text == ALREADY
        assert len(await here.events(user, "application_approved")) == 1


async def test_many_next_calls_at_once_finish_what_a_crash_left_once(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await begin_approval(here.database, user)
        await let_lease_run_out(here.database, user)
        answers = await asyncio.gather(*(here.approve(user) for _ in range(8)))
        assert sorted(answer.text for answer in answers) == sorted([RANKED] + [ALREADY] * 7)
        assert len(await here.events(user, "application_approved")) == 1
    assert here.accounts.ranked == [user]


async def test_a_call_cut_off_while_the_rank_is_set_is_finished_by_the_next(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.may_answer.clear()
        first = asyncio.create_task(here.approve(user))
        await wait_until(lambda: here.accounts.ranks[user] == TRAINEE)
        first.cancel()
        await asyncio.wait([first])
        here.accounts.may_answer.set()
        (record,) = await here.records(user)
        assert record["status"] == "approving"
        await let_lease_run_out(here.database, user)
        assert (await here.approve(user)).text == RANKED
        assert len(await here.events(user, "application_approved")) == 1


async def test_the_next_call_outwaits_the_lease_of_a_crashed_one(servers: Servers) -> None:
    """Without help: the longest that a call can take is shorter than the gateway's limit of 10 s."""
    async with park(servers, patience=1) as here:

        async def is_outwaited() -> bool:
            user = unique_id()
            here.accounts.knows(user)
            await begin_approval(here.database, user)
            began = time.monotonic()
            answer = await here.approve(user)
            assert answer.text in (RANKED, NOT_RANKED)
            return answer.text == RANKED and time.monotonic() - began < 9.5

        await wait_until(is_outwaited, 60)  # a machine that pauses makes one try longer, not all


async def test_a_lease_that_holds_keeps_the_restarted_service_away(servers: Servers) -> None:
    held, abandoned = unique_id(), unique_id()
    accounts = Accounts()
    accounts.knows(held)
    accounts.knows(abandoned)
    async with database(servers) as applications:
        await begin_approval(applications, held)
        await begin_approval(applications, abandoned)
        await let_lease_run_out(applications, abandoned)
    async with park(servers, accounts) as here:
        await wait_until(lambda: is_approved(here, abandoned))
        assert not await is_approved(here, held)
    assert accounts.ranked == [abandoned]


async def test_somebody_promoted_meanwhile_is_not_demoted(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user, CAST)
        here.accounts.stored[user] = GUEST
        await begin_approval(here.database, user)
        await let_lease_run_out(here.database, user)
        assert (await here.approve(user)).text == RANKED
        assert await is_approved(here, user)
        assert len(await here.events(user, "application_approved")) == 1
    assert here.accounts.ranks[user] == CAST
    assert here.accounts.ranked == []


async def test_what_a_crash_left_stays_finishable_while_the_rank_cannot_be_read(
    servers: Servers,
) -> None:
    user = unique_id()
    async with park(servers, patience=1) as here:
        here.accounts.knows(user)
        await begin_approval(here.database, user, FIRST)
        await let_lease_run_out(here.database, user)
        here.accounts.may_read.clear()
        assert (await here.approve(user)).text == NOT_RANKED
        (record,) = await here.records(user)
        assert record["status"] == "approving"
        here.accounts.may_read.set()
        assert (await here.approve(user)).text == RANKED
        (record,) = await here.records(user)
        assert (record["status"], record["moderator"]) == ("approved", FIRST)


async def test_an_attempt_that_lost_its_lease_decides_nothing_any_more(servers: Servers) -> None:
    """The slow one is refused in the end, after another has finished its work."""
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.may_answer.clear()
        here.accounts.fails_with = 409
        slow = asyncio.create_task(here.approve(user))
        await wait_until(lambda: here.accounts.ranked == [user])
        await let_lease_run_out(here.database, user)
        other = Accounts()
        other.knows(user)
        async with park(servers, other) as there:
            await wait_until(lambda: is_approved(there, user))
        here.accounts.may_answer.set()
        assert (await slow).text == NOT_RANKED
        assert await is_approved(here, user)
        assert len(await here.events(user, "application_approved")) == 1


@pytest.mark.parametrize("applied", [False, True])
async def test_a_refusal_while_finishing_after_a_restart_reopens_the_application(
    servers: Servers, applied: bool
) -> None:
    user, accounts = unique_id(), Accounts()
    accounts.knows(user)
    async with park(servers, accounts) as here:
        if applied:
            await here.upload(user)
        await begin_approval(here.database, user)
        await let_lease_run_out(here.database, user)
    accounts.fails_with = 409
    async with park(servers, accounts) as here:

        async def is_open() -> bool:
            return [one["status"] for one in await here.records(user)] == ["submitted"] * applied

        await wait_until(is_open)
        assert await here.events(user, "application_approved") == []
        assert accounts.ranked == [user]
        accounts.fails_with = None
        assert (await here.approve(user)).text == RANKED
        assert await is_approved(here, user)
        assert len(await here.events(user, "application_approved")) == 1


@pytest.mark.parametrize("applied", [False, True])
async def test_a_refusal_that_could_not_be_recorded_is_asked_for_again(
    servers: Servers, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process dies between the refusal and its record: nothing is stuck, nothing done twice."""
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        if applied:
            await here.upload(user)
        with monkeypatch.context() as patch:

            async def dies(*_: object) -> None:
                raise RuntimeError

            patch.setattr("applications.repository.Repository.reopen", dies)
            assert (await here.approve(user)).status_code == 500
        (record,) = await here.records(user)
        assert record["status"] == "approving"
        await let_lease_run_out(here.database, user)
        assert (await here.approve(user)).text == NOT_RANKED
        assert [one["status"] for one in await here.records(user)] == ["submitted"] * applied
        here.accounts.fails_with = None
        assert (await here.approve(user)).text == RANKED
        assert await is_approved(here, user)


async def test_the_record_and_the_event_of_an_approval_come_together_or_not_at_all(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        async with refusing_events(here.database):
            assert (await here.approve(user)).status_code == 500
        (record,) = await here.records(user)
        assert record["status"] == "approving"
        await let_lease_run_out(here.database, user)
        assert (await here.approve(user)).text == RANKED
        assert len(await here.events(user, "application_approved")) == 1
