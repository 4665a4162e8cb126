"""A person whom a process left locked when it died between its writes and its commit."""

import asyncio
from typing import Any

from shifts.service import DEADLINE_SECONDS
from tests.shifts.builders import log, shift
from tests.shifts.conftest import Park
from tests.support import wait_until


async def test_a_locked_person_is_set_aside_and_the_others_are_logged_in_time(park: Park) -> None:
    locked: dict[str, Any] = {}

    async def are_logged() -> bool:
        """Whether all the others were, both times that the locked person was refused."""
        nonlocal locked
        locked = shift()
        async with park.database.client.start_session() as dead:
            await dead.start_transaction()
            sheet = {"_id": locked["id"], "carry": {"numerator": 0, "denominator": 1}}
            await park.database["timesheets"].insert_one(sheet, session=dead)
            began = asyncio.get_running_loop().time()
            for _ in range(2):  # whoever is refused sends it again
                # The first is a batch alone; those that come meanwhile share the next.
                first, refused, *others = await asyncio.gather(
                    log(park.client, shift()),
                    log(park.client, locked),
                    *(log(park.client, shift()) for _ in range(30)),
                )
                statuses = {answer.status_code for answer in (first, *others)}
                if (refused.status_code, statuses) != (503, {200}):
                    return False
                assert refused.headers["Retry-After"] == "1"
            await dead.abort_transaction()
        return asyncio.get_running_loop().time() - began < 2 * DEADLINE_SECONDS

    async def is_logged() -> bool:
        return (await log(park.client, locked)).status_code == 200

    await wait_until(are_logged, 60)  # a busy machine may need a second try
    await wait_until(is_logged)
    assert await park.database["shifts"].count_documents({"user": locked["id"]}) == 1
