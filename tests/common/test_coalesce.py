"""Requests that share a round trip."""

import asyncio
from collections.abc import Sequence

import pytest

from common.coalesce import Coalescer, Merger


class Rounds:
    """A round trip that waits until it is let through, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()

    async def double(self, items: Sequence[int]) -> list[int | Exception]:
        """Twice each item; 13 is refused."""
        self.batches.append(list(items))
        self.started.set()
        await self.gate.wait()
        return [ValueError("13") if item == 13 else item * 2 for item in items]


async def test_a_request_alone_waits_for_nobody() -> None:
    rounds = Rounds()
    rounds.gate.set()
    assert await Coalescer[int, int](rounds.double).submit(4) == 8


async def test_requests_that_arrive_during_a_round_trip_share_the_next() -> None:
    rounds = Rounds()
    coalescer = Coalescer[int, int](rounds.double)
    tasks = [asyncio.create_task(coalescer.submit(1))]
    await rounds.started.wait()
    tasks += [asyncio.create_task(coalescer.submit(item)) for item in (2, 3, 4)]
    await asyncio.sleep(0)
    rounds.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert rounds.batches == [[1], [2, 3, 4]]


async def test_an_item_refused_leaves_the_others_of_its_batch_alone() -> None:
    rounds = Rounds()
    rounds.gate.set()
    coalescer = Coalescer[int, int](rounds.double)
    results = await asyncio.gather(*map(coalescer.submit, (1, 13, 2)), return_exceptions=True)
    assert [results[0], results[2]] == [2, 4]
    assert isinstance(results[1], ValueError)


async def test_one_batch_holds_one_item_of_a_key_and_keeps_their_order() -> None:
    rounds = Rounds()
    rounds.gate.set()
    coalescer = Coalescer[int, int](rounds.double, key=lambda item: item % 10)
    await asyncio.gather(*map(coalescer.submit, (1, 11, 21, 2)))
    assert rounds.batches == [[1, 2], [11], [21]]


async def test_items_are_run_alone_only_for_an_error_of_their_own() -> None:
    batches: list[list[str]] = []

    async def run(items: Sequence[str]) -> list[str]:
        batches.append(list(items))
        if "duplicate" in items:
            raise KeyError
        if "outage" in items:
            raise TimeoutError
        return list(items)

    coalescer = Coalescer[str, str](run, own_error=lambda error: isinstance(error, KeyError))
    results = await asyncio.gather(*map(coalescer.submit, ("a", "duplicate", "b")), return_exceptions=True)
    assert [type(result) for result in results] == [str, KeyError, str]
    assert batches == [["a", "duplicate", "b"], ["a"], ["duplicate"], ["b"]]

    batches.clear()
    results = await asyncio.gather(*map(coalescer.submit, ("a", "outage", "b")), return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError] * 3
    assert batches == [["a", "outage", "b"]]


async def test_items_are_run_alone_all_at_once() -> None:
    alone: set[str] = set()
    are_all_there = asyncio.Event()

    async def run(items: Sequence[str]) -> list[str]:
        if len(items) > 1:
            raise KeyError
        alone.update(items)
        if len(alone) == 3:
            are_all_there.set()
        await are_all_there.wait()
        return list(items)

    coalescer = Coalescer[str, str](run, own_error=lambda error: isinstance(error, KeyError))
    async with asyncio.timeout(60):
        assert await asyncio.gather(*map(coalescer.submit, "abc")) == ["a", "b", "c"]


async def test_each_request_keeps_its_own_deadline_behind_a_stuck_batch() -> None:
    rounds = Rounds()
    coalescer = Coalescer[int, int](rounds.double)
    stuck = asyncio.create_task(coalescer.submit(1))
    await rounds.started.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await coalescer.submit(2)
    rounds.gate.set()
    assert await stuck == 2
    assert await coalescer.submit(3) == 6
    assert rounds.batches == [[1], [3]]


@pytest.mark.parametrize(("patience", "asked"), [(0, [[1]]), (60, [[1], [2]])])
async def test_who_has_waited_long_for_a_batch_that_fails_fails_with_it(
    monkeypatch: pytest.MonkeyPatch, patience: float, asked: list[list[int]]
) -> None:
    monkeypatch.setattr("common.coalesce._PATIENCE_SECONDS", patience)
    rounds = Rounds()

    async def fail(items: Sequence[int]) -> list[int | Exception]:
        await rounds.double(items)
        raise ConnectionError

    coalescer = Coalescer[int, int](fail)
    first = asyncio.create_task(coalescer.submit(1))
    await rounds.started.wait()
    second = asyncio.create_task(coalescer.submit(2))
    await asyncio.sleep(0)
    rounds.gate.set()
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError, ConnectionError]
    assert rounds.batches == asked


async def answers(coalescer: Coalescer[int, int], *items: int) -> list[type]:
    """What the callers of these items get, all at once: a value, or what is raised."""
    asked = (coalescer.submit(item) for item in items)
    async with asyncio.timeout(30):
        return [type(result) for result in await asyncio.gather(*asked, return_exceptions=True)]


async def test_what_the_key_of_an_item_raises_goes_to_its_own_caller() -> None:
    rounds = Rounds()
    rounds.gate.set()
    coalescer = Coalescer[int, int](rounds.double, key=lambda item: 1 // item)
    assert await answers(coalescer, 1, 0, 2) == [int, ZeroDivisionError, int]


async def test_no_caller_waits_for_ever_when_own_error_raises() -> None:
    async def run(_: Sequence[int]) -> list[int]:
        raise KeyError

    def own_error(_: Exception) -> bool:
        raise ZeroDivisionError

    assert await answers(Coalescer(run, own_error=own_error), 1, 2) == [ZeroDivisionError] * 2


@pytest.mark.parametrize(
    ("results", "raised"), [([1], RuntimeError), ([1, 2, 3], RuntimeError), (None, TypeError)]
)
async def test_no_caller_waits_for_ever_when_a_batch_is_answered_with_another_number_of_results(
    results: list[int], raised: type[Exception]
) -> None:
    async def run(_: Sequence[int]) -> list[int]:
        return results

    assert await answers(Coalescer(run), 1, 2) == [raised] * 2


async def test_no_caller_waits_for_ever_when_the_work_is_cancelled() -> None:
    started = asyncio.Event()

    async def run(items: Sequence[int]) -> list[int]:
        started.set()
        await asyncio.Event().wait()
        return list(items)

    coalescer = Coalescer[int, int](run)
    before = asyncio.all_tasks()
    first = asyncio.create_task(coalescer.submit(1))
    await started.wait()
    second = asyncio.create_task(coalescer.submit(2))
    await asyncio.sleep(0)
    (worker,) = asyncio.all_tasks() - before - {first, second}
    worker.cancel()
    async with asyncio.timeout(30):
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


# --------------------------------------------------------------------------------------------- merging


async def test_who_asks_for_the_same_at_once_shares_one_call() -> None:
    calls = Calls()
    merger = Merger[str, str](calls.shout)
    waiting = [asyncio.create_task(merger.ask(item)) for item in ("a", "b", "a", "a")]
    await asyncio.sleep(0)
    calls.gate.set()
    assert await asyncio.gather(*waiting) == ["A", "B", "A", "A"]
    assert calls.made == ["a", "b"]
    assert await merger.ask("a") == "A"
    assert calls.made == ["a", "b", "a"]


async def test_who_leaves_a_shared_call_does_not_end_it_for_the_others() -> None:
    calls = Calls()
    merger = Merger[str, str](calls.shout)
    first, second = (asyncio.create_task(merger.ask("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    calls.gate.set()
    assert await second == "A"
    assert calls.made == ["a"]


async def test_a_shared_call_that_fails_fails_for_all_and_the_next_is_made_anew() -> None:
    calls = Calls()
    calls.error = ConnectionError()
    merger = Merger[str, str](calls.shout)
    waiting = [asyncio.create_task(merger.ask("a")) for _ in range(3)]
    await asyncio.sleep(0)
    calls.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError] * 3
    calls.error = None
    assert await merger.ask("a") == "A"


class Calls:
    """Calls that wait for the gate."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def shout(self, item: str) -> str:
        self.made.append(item)
        await self.gate.wait()
        if self.error:
            raise self.error
        return item.upper()
