"""A person whom a process left locked when it died between its writes and its commit."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shifts.settings import ShiftsLimits
from tests.shifts.builders import log, shift
from tests.shifts.conftest import Park, open_park
from tests.support import Servers, wait_until


@pytest.fixture(scope="module")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """A service that waits for a locked person as briefly as it does on a quick machine."""
    async with open_park(servers, shifts=ShiftsLimits(log_seconds=30)) as one:
        yield one


async def test_a_locked_person_is_set_aside_and_the_others_are_logged_meanwhile(park: Park) -> None:
    locked: dict[str, Any] = {}

    async def are_logged() -> bool:
        """Whether the person stayed locked until the others were logged: MongoDB ends a lock after 5 s."""
        nonlocal locked
        locked = shift()
        async with park.database.client.start_session() as dead:
            await dead.start_transaction()
            sheet = {"_id": locked["id"], "carry": {"numerator": 0, "denominator": 1}}
            await park.database["timesheets"].insert_one(sheet, session=dead)
            # The first is a batch alone; those that come meanwhile share the next.
            first, refused, *others = await asyncio.gather(
                log(park.client, shift()),
                log(park.client, locked),
                *(log(park.client, shift()) for _ in range(30)),
            )
            await dead.abort_transaction()
        assert {answer.status_code for answer in (first, *others)} == {200}
        if refused.status_code == 200:
            return False
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        return True

    async def is_logged() -> bool:
        return (await log(park.client, locked)).status_code == 200

    await wait_until(are_logged, 60)
    await wait_until(is_logged)
    assert await park.database["shifts"].count_documents({"user": locked["id"]}) == 1
