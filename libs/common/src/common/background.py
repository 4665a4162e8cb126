"""Work that goes on for as long as something is open."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_CANCELLATIONS = 1.0

Work = Callable[[], Awaitable[None]]


@asynccontextmanager
async def background(work: Work) -> AsyncIterator[None]:
    """Run `work` while the context is open; it starts again should it fail."""

    async def keep_running() -> None:
        while True:
            try:
                return await work()
            except Exception:
                logger.exception("a background task failed; it starts again")
                await asyncio.sleep(1)

    task = asyncio.create_task(keep_running())
    try:
        yield
    finally:
        # Again and again: before Python 3.12, asyncio.wait_for, which pymongo uses, can lose a cancellation.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_SECONDS_BETWEEN_CANCELLATIONS)
