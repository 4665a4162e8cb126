"""Work that a service does beside its requests."""

import asyncio

from common.background import background


async def test_work_that_fails_starts_again() -> None:
    starts = 0
    done = asyncio.Event()

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise ValueError
        done.set()

    async with asyncio.timeout(60), background(work):
        await done.wait()


async def test_work_that_loses_a_cancellation_is_stopped_all_the_same() -> None:
    cancellations = 0

    async def work() -> None:
        nonlocal cancellations
        while cancellations < 2:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancellations += 1

    async with asyncio.timeout(60):
        async with background(work):
            await asyncio.sleep(0)
    assert cancellations == 2
