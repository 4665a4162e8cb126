"""Requests that share a round trip.

While one batch is on its way to the database, the requests that arrive gather for the next. Under load, the
cost of a round trip is shared by many; alone, a request waits for nobody. Those that ask another company the
same thing at once share the answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE_SECONDS = 0.2


_Entry = tuple[Item, Hashable, asyncio.Future[Result], float]
"""What is asked, its key, who waits for the answer, and since when."""


class Coalescer(Generic[Item, Result]):
    """Runs items in batches, one batch at a time.

    `run` takes the items of a batch and answers their results in the same order; a result that is an
    exception is raised to its own caller only. When `run` raises, `own_error` says whether the cause may be
    one single item (a duplicate, a failed validation): then each item is run again alone, all at once.
    Otherwise (a time-out, a lost primary) the whole batch fails with that exception, and so do those who waited
    for it for a while: the next batch may take as long again.

    With `key`, a batch holds at most one item of each key; the others wait for a later batch, in order.

    No caller is left waiting: what `key` raises goes to its own caller; what `own_error` raises, and a number of
    results that is not that of the items, to every caller of the batch.

    `gather_seconds` is for batches that cost much however small they are. Callers who were just answered come
    back one by one; the first would be a batch alone, with all the others waiting for it. So a batch waits
    until as many are there as the former one held and left waiting, but no longer than this, and than the
    former one took. A request that comes alone still waits for nobody.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        limit: int = 256,
        key: Callable[[Item], Hashable] | None = None,
        own_error: Callable[[Exception], bool] = lambda _: False,
        gather_seconds: float = 0,
    ) -> None:
        self._run = run
        self._limit = limit
        self._key = key
        self._own_error = own_error
        self._gather_seconds = gather_seconds
        self._wanted = 0
        self._is_enough = asyncio.Event()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The item's result. A caller that is cancelled leaves; its item may still be run."""
        key = self._key(item) if self._key is not None else None
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, key, future, time.monotonic()))
        if len(self._waiting) >= self._wanted:
            self._is_enough.set()
        if self._worker is None:
            # A context of its own: the batch is nobody's request, and keeps nobody's deadline.
            self._worker = asyncio.create_task(self._work(), context=Context())
        return await future

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                started = time.monotonic()
                await self._settle(batch)
                if self._gather_seconds:
                    await self._gather(len(batch) + len(self._waiting), time.monotonic() - started)
        except BaseException:  # the worker itself was cancelled
            for *_, future, _ in self._waiting:
                future.cancel()
            self._waiting.clear()
            raise
        finally:
            self._worker = None

    async def _gather(self, wanted: int, seconds: float) -> None:
        """Return once so many wait, or the time is up."""
        self._wanted = min(wanted, self._limit)
        if len(self._waiting) < self._wanted:
            self._is_enough.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, self._gather_seconds)):
                    await self._is_enough.wait()

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        batch: list[_Entry[Item, Result]] = []
        postponed: list[_Entry[Item, Result]] = []
        keys: set[Hashable] = set()
        while self._waiting and len(batch) < self._limit:
            entry = self._waiting.popleft()
            _, key, future, _ = entry
            if future.done():  # its caller gave up before the item was started
                continue
            if self._key is not None:
                if key in keys:
                    postponed.append(entry)
                    continue
                keys.add(key)
            batch.append(entry)
        self._waiting.extendleft(reversed(postponed))
        return batch

    async def _settle(self, batch: list[_Entry[Item, Result]]) -> None:
        futures = [future for *_, future, _ in batch]
        try:
            results = await self._run([item for item, *_ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"a batch of {len(batch)} items was answered with {len(results)} results")
        except Exception as error:
            await self._fail(batch, error)
            return
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def _fail(self, batch: list[_Entry[Item, Result]], error: Exception) -> None:
        try:
            is_own = self._own_error(error)
        except Exception as fault:
            error, is_own = fault, False
        if is_own and len(batch) > 1:
            await asyncio.gather(*(self._settle([entry]) for entry in batch))
            return
        for *_, future, _ in batch if is_own else [*batch, *self._impatient()]:
            if not future.done():
                future.set_exception(error)

    def _impatient(self) -> list[_Entry[Item, Result]]:
        latest = time.monotonic() - _PATIENCE_SECONDS
        return [entry for entry in self._waiting if entry[3] <= latest]


class Merger(Generic[Item, Result]):
    """Runs one call for all who ask for the same item while it is under way.

    The call belongs to none of them: it goes on when one of them leaves, and keeps nobody's deadline.
    """

    def __init__(self, run: Callable[[Item], Awaitable[Result]]) -> None:
        self._run = run
        self._under_way: dict[Item, asyncio.Task[Result]] = {}

    async def ask(self, item: Item) -> Result:
        """What the call answers or raises."""
        task = self._under_way.get(item)
        if task is None:
            task = self._under_way[item] = asyncio.create_task(self._call(item), context=Context())
            # Looked at here, should nobody be left to do so.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _call(self, item: Item) -> Result:
        try:
            return await self._run(item)
        finally:
            del self._under_way[item]
