"""Shifts of many people in one batch: those whom the former batch answered are waited for."""

import asyncio
from collections.abc import Sequence
from itertools import count
from types import SimpleNamespace

import pytest

from common.coalesce import Coalescer

FIRST, OTHERS = "a", ("b", "c")


class Batches:
    """A database that lets the first batch wait until the others have asked, and remembers all batches."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.started = asyncio.Event()
        self.others_asked = asyncio.Event()

    async def run(self, items: Sequence[str]) -> list[str | Exception]:
        """The items themselves."""
        self.seen.append(sorted(items))
        self.started.set()
        await self.others_asked.wait()
        return [*items]


def batches_take(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """By the clock that the coalescer looks at."""
    ticks = count(step=seconds)
    monkeypatch.setattr("common.coalesce.time", SimpleNamespace(monotonic=lambda: next(ticks)))


async def ask(coalescer: Coalescer[str, str], batches: Batches, first_asks: int) -> None:
    """One asks alone, the others while it waits; the first asks again as soon as it is answered."""

    async def first() -> None:
        for _ in range(first_asks):
            await coalescer.submit(FIRST)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(first())
        await batches.started.wait()
        for other in OTHERS:
            tasks.create_task(coalescer.submit(other))
        await asyncio.sleep(0)
        batches.others_asked.set()


async def test_a_batch_waits_for_those_whom_the_former_one_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    batches_take(monkeypatch, 3600)
    batches = Batches()
    await ask(Coalescer[str, str](batches.run, gather_seconds=3600), batches, first_asks=2)
    assert batches.seen == [["a"], ["a", "b", "c"]]


@pytest.mark.parametrize(("took", "gather_seconds"), [(0, 3600), (3600, 0.001)])
async def test_a_batch_waits_no_longer_than_the_former_one_took_and_than_it_may(
    monkeypatch: pytest.MonkeyPatch, took: float, gather_seconds: float
) -> None:
    batches_take(monkeypatch, took)
    batches = Batches()
    await ask(Coalescer[str, str](batches.run, gather_seconds=gather_seconds), batches, first_asks=1)
    assert batches.seen == [["a"], ["b", "c"]]
