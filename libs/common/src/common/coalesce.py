"""Requests that share a database round trip.

While one batch is on its way to the database, the requests that arrive gather for the next. Under load, the
cost of a round trip is shared by many; alone, a request waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Runs items in batches, one batch at a time.

    `run` takes the items of a batch and answers their results in the same order; a result that is an
    exception is raised to its own caller only. When `run` raises, `own_error` says whether the cause may be
    one single item (a duplicate, a failed validation): then each item is run again alone. Otherwise (a
    time-out, a lost primary) the whole batch fails with that exception.

    With `key`, a batch holds at most one item of each key; the others wait for a later batch, in order.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        limit: int = 256,
        key: Callable[[Item], Hashable] | None = None,
        own_error: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        self._run = run
        self._limit = limit
        self._key = key
        self._own_error = own_error
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The item's result. A caller that is cancelled leaves; its item may still be run."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            # A context of its own: the batch is nobody's request, and keeps nobody's deadline.
            self._worker = asyncio.create_task(self._work(), context=Context())
        return await future

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                await self._settle(batch)
        finally:
            self._worker = None

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        postponed: list[tuple[Item, asyncio.Future[Result]]] = []
        keys: set[Hashable] = set()
        while self._waiting and len(batch) < self._limit:
            item, future = self._waiting.popleft()
            if future.done():  # its caller gave up before the item was started
                continue
            if self._key is not None:
                key = self._key(item)
                if key in keys:
                    postponed.append((item, future))
                    continue
                keys.add(key)
            batch.append((item, future))
        self._waiting.extendleft(reversed(postponed))
        return batch

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and self._own_error(error):
                for entry in batch:
                    await self._settle([entry])
            else:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            return
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
