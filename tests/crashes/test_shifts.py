"""Shifts dies on the way from a request to a published event: sent again, the shift is counted once."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from tests.crashes.points import NOT_ANSWERED, NOT_COMMITTED, NOT_MARKED, NOT_PUBLISHED, NOT_STORED
from tests.support import unique_id, wait_until
from tests.support.accounting import NOTHING, ONCE, STORED, count, log
from tests.support.machine import Machine


async def until_it_is_a_group(attempt: Callable[[], Awaitable[int]]) -> None:
    """Return once an attempt was about more than one shift: a busy machine may bring them in one by one."""
    for _ in range(10):
        if await attempt() > 1:
            return
    pytest.fail("no two shifts were ever in one commit")


async def nothing_struck(park: Machine) -> int:
    """After a pause of the machine, all came in the first commit: let the next one be struck, and start anew."""
    async with park.service("shifts") as client:
        await log(client, unique_id())
    assert await park.wait("shifts") == -signal.SIGKILL
    await park.start("shifts")
    return 0


async def counted_once(park: Machine, *users: int) -> None:
    """Return once everything of these people is counted, which must be as often as it should be."""

    async def is_counted() -> bool:
        return all(found.ledger_entries and not found.unsent for found in await count(park, *users))

    await wait_until(is_counted, seconds=60)
    assert await count(park, *users) == [ONCE for _ in users]


async def test_a_shift_that_is_stored_but_not_published_is_published_by_the_next_start(park: Machine) -> None:
    user = unique_id()
    park.arm("shifts", NOT_PUBLISHED)
    async with park.service("shifts") as client:
        await log(client, user)
        assert await park.wait("shifts") == -signal.SIGKILL
        assert await count(park, user) == [STORED]
        await park.start("shifts")
        await counted_once(park, user)
        again = await log(client, user)
    assert again and again.status_code == 200 and "Idempotent-Replayed" in again.headers
    assert (await park.metrics("shifts")).value("shifts_repeated") == 1
    await counted_once(park, user)


async def test_an_event_that_is_published_but_not_marked_comes_again_and_is_counted_once(
    park: Machine,
) -> None:
    user = unique_id()
    unchanged = (await park.metrics("accounts")).value("events_unchanged")
    park.arm("shifts", NOT_MARKED)
    async with park.service("shifts") as client:
        await log(client, user)
    assert await park.wait("shifts") == -signal.SIGKILL

    async def is_in_the_ledger() -> bool:
        (found,) = await count(park, user)
        assert found.unsent == 1
        return found.ledger_entries == 1

    await wait_until(is_in_the_ledger)
    await park.start("shifts")

    async def came_again() -> bool:
        return (await park.metrics("accounts")).value("events_unchanged") > unchanged

    await wait_until(came_again)
    await counted_once(park, user)


@pytest.mark.parametrize("point", [pytest.param(NOT_STORED, marks=pytest.mark.long), NOT_COMMITTED])
async def test_a_group_commit_that_is_interrupted_leaves_nothing_and_can_soon_be_tried_again(
    park: Machine, point: str
) -> None:
    await until_it_is_a_group(lambda: interrupted(park, point))


async def interrupted(park: Machine, point: str) -> int:
    """Interrupt a commit; answers how many shifts were in it."""
    users = [unique_id() for _ in range(20)]
    park.arm("shifts", point)
    async with park.service("shifts") as client:
        answers = await asyncio.gather(*(log(client, user) for user in users))
        if None not in answers:
            return await nothing_struck(park)
        assert await park.wait("shifts") == -signal.SIGKILL
        acknowledged = [answer is not None and answer.status_code == 200 for answer in answers]
        found = await count(park, *users)
        assert [one.shifts for one in found] == [one.events for one in found] == list(map(int, acknowledged))
        await park.start("shifts")

        async def is_recorded(user: int) -> bool:
            answer = await log(client, user)
            assert answer and answer.status_code in (200, 503), answer
            return answer.status_code == 200

        for user in users:  # MongoDB keeps what the dead process wrote locked for some seconds
            await wait_until(partial(is_recorded, user), seconds=60)
    await counted_once(park, *users)
    return answers.count(None)


async def test_a_group_commit_that_is_not_answered_is_whole_and_its_repeats_are_known(park: Machine) -> None:
    await until_it_is_a_group(lambda: not_answered(park))


async def not_answered(park: Machine) -> int:
    """Let a commit not be answered; answers how many shifts were in it."""
    users = [unique_id() for _ in range(20)]
    park.arm("shifts", NOT_ANSWERED)
    async with park.service("shifts") as client:
        answers = await asyncio.gather(*(log(client, user) for user in users))
        if None not in answers:
            return await nothing_struck(park)
        assert await park.wait("shifts") == -signal.SIGKILL
        stored = await count(park, *users)
        unanswered = [
            answer is None and found != NOTHING for answer, found in zip(answers, stored, strict=True)
        ]
        assert any(unanswered)
        assert all(one == NOTHING or (one.shifts, one.events) == (1, 1) for one in stored)
        await park.start("shifts")
        repeats = [await log(client, user) for user in users]
    for before, again in zip(stored, repeats, strict=True):
        assert again and again.status_code == 200
        assert ("Idempotent-Replayed" in again.headers) == (before != NOTHING)
    await counted_once(park, *users)
    return sum(unanswered)
