"""MongoDB's primary steps down, and the next one dies, under load."""

import pytest
from pymongo import AsyncMongoClient

from common.mongo import Document
from tests.pressure.mongods import three_members
from tests.support import wait_until
from tests.support.accounting import is_counted, letters
from tests.support.machine import SERVICES, machine
from tests.support.visitors import Load, a_load, load, visitors


async def goes_on(admin: AsyncMongoClient[Document], before: object, under_way: Load) -> None:
    """Return once there is another primary, and shifts are logged again."""

    async def is_another() -> bool:
        return await admin.primary not in (None, before)

    await wait_until(is_another, seconds=60)
    logged = len(under_way.of("log", 200))
    await wait_until(lambda: len(under_way.of("log", 200)) > logged + 10, seconds=60)


@pytest.mark.long
async def test_another_primary_costs_some_requests_a_503_and_nothing_else() -> None:
    async with three_members() as (url, members), machine(mongo_url=url) as one:
        await one.start(*SERVICES, "gateway")
        admin: AsyncMongoClient[Document] = AsyncMongoClient(url)
        async with visitors(one) as guest, admin:
            async with load(await a_load(one, guest), warm=10) as under_way:
                await admin.admin.command("ping")
                first = await admin.primary
                await admin.admin.command({"replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 10})
                await goes_on(admin, first, under_way)
                second = await admin.primary
                assert second
                members[second[1]].kill()
                await goes_on(admin, second, under_way)
            failed = under_way.failed("log", "log with a key", "join", "upload", "change")
            assert {(seen.status, seen.retry_after) for seen in failed} <= {(503, "1")}
            # "couldn't rank user": what the interface has for an approval whose rank could not be set.
            assert {seen.status for seen in under_way.failed("approve")} <= {502, 503}
            users = under_way.acknowledged_shifts
            assert len(users) > 20
            await wait_until(lambda: is_counted(one, *users), seconds=60)
        assert {**await letters(one, "accounts"), **await letters(one, "shifts")} == {}
