"""A person whom a process left locked when it died between its writes and its commit."""

import asyncio
from typing import Any

import pytest

from shifts.service import DEADLINE_SECONDS, LOCKED_SECONDS
from tests.shifts.builders import log, shift
from tests.shifts.conftest import Park
from tests.support import wait_until


def test_a_request_has_time_for_the_waits_for_a_locked_person() -> None:
    assert 3 * LOCKED_SECONDS < DEADLINE_SECONDS / 2


async def test_a_locked_person_is_set_aside_and_the_others_are_logged_meanwhile(
    park: Park, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("shifts.service.DEADLINE_SECONDS", "common.mongo.TIMEOUT_SECONDS"):
        monkeypatch.setattr(limit, 30.0)  # a machine that pauses does not reach them
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
