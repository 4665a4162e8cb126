"""A batch of events of which some fail: what becomes of each, and how often the handler is asked."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies
from pymongo.errors import AutoReconnect, ExecutionTimeout, ServerSelectionTimeoutError

from common.errors import InvalidEvent, Locked, Unavailable
from common.events import RankChanged
from common.messaging.handling import Handled, Outcome, are_newer, handle_each
from common.messaging.limits import ConsumerLimits

LIMITS = ConsumerLimits()
SLOW = ExecutionTimeout("too slow", 50)


def changed(user: int) -> RankChanged:
    return RankChanged(user=user, username="A", rank="Guest", rankid=0, version=1)


@dataclass
class Work:
    """A handler that fails as a transaction does: for all of its events, as soon as one of them has an error."""

    errors: dict[str, Exception] = field(default_factory=dict)
    most: int = 1_000_000
    asked: list[int] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    most_under_way: int = 0

    async def handle(self, events: Sequence[RankChanged]) -> list[Outcome]:
        self.asked.append(len(events))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        for event in events:
            if event.id in self.errors:
                raise self.errors[event.id]
        if len(events) > self.most:
            raise SLOW
        self.done.update(event.id for event in events)
        return [Handled.DONE for _ in events]


@pytest.mark.parametrize(
    "error", [Locked(), Unavailable("a service"), InvalidEvent("no"), ValueError("a bug")]
)
async def test_one_that_fails_keeps_its_error_to_itself(error: Exception) -> None:
    events = [changed(user) for user in range(100)]
    work = Work({events[40].id: error})
    outcomes = await handle_each(events, work.handle, LIMITS)
    assert outcomes == [Handled.DONE] * 40 + [error] + [Handled.DONE] * 59
    assert {work.done[event.id] for event in events} == {0, 1}
    assert len(work.asked) == 101
    assert 1 < work.most_under_way <= LIMITS.alone_at_once


async def test_a_batch_without_a_failure_is_handled_at_once() -> None:
    events = [changed(user) for user in range(100)]
    work = Work()
    assert await handle_each(events, work.handle, LIMITS) == [Handled.DONE] * 100
    assert work.asked == [100]


async def test_all_events_of_a_locked_person_wait_for_the_lock_once() -> None:
    events = [changed(number % 2) for number in range(20)]
    work = Work({event.id: Locked() for event in events if event.user == 1})
    outcomes = await handle_each(events, work.handle, LIMITS)
    assert [outcome is Handled.DONE for outcome in outcomes] == [event.user == 0 for event in events]
    assert work.asked == [20, 10, 10]


async def test_of_one_persons_events_only_the_one_that_fails_fails() -> None:
    events = [changed(1) for _ in range(4)]
    error = ValueError("a bug")
    work = Work({events[2].id: error})
    outcomes = await handle_each(events, work.handle, LIMITS)
    assert outcomes == [Handled.DONE, Handled.DONE, error, Handled.DONE]


async def test_a_persons_events_that_are_too_much_together_are_handled_one_by_one_until_an_outage() -> None:
    events = [changed(1), *(changed(2) for _ in range(5))]
    bug = ValueError("a bug")
    work = Work({events[0].id: bug}, most=1)
    assert await handle_each(events, work.handle, LIMITS) == [bug] + [Handled.DONE] * 5
    work = Work({events[0].id: bug, events[3].id: SLOW}, most=1)
    assert await handle_each(events, work.handle, LIMITS) == [
        bug,
        Handled.DONE,
        Handled.DONE,
        SLOW,
        SLOW,
        SLOW,
    ]
    assert len(work.asked) == 6


async def test_what_is_too_much_at_once_is_handled_in_parts() -> None:
    events = [changed(user) for user in range(256)]
    work = Work(most=70)
    assert await handle_each(events, work.handle, LIMITS) == [Handled.DONE] * 256
    assert work.asked == [256, 128, 64, 64, 64, 64]


async def test_one_that_is_too_slow_alone_waits_alone() -> None:
    events = [changed(user) for user in range(8)]
    work = Work({events[5].id: SLOW})
    outcomes = await handle_each(events, work.handle, LIMITS)
    assert isinstance(outcomes[5], Unavailable)
    assert outcomes[:5] + outcomes[6:] == [Handled.DONE] * 7


async def test_a_database_that_is_too_slow_for_anything_is_an_outage() -> None:
    events = [changed(user) for user in range(256)]
    work = Work(most=0)
    outcomes = await handle_each(events, work.handle, LIMITS)
    assert outcomes[1:] == [SLOW] * 255
    assert work.asked == [256, 128, 64, 32, 16, 8, 4, 2, 1, 1]


@pytest.mark.parametrize("error", [AutoReconnect("away"), ServerSelectionTimeoutError("away")])
async def test_an_outage_ends_the_attempts(error: Exception) -> None:
    events = [changed(user) for user in range(100)]
    work = Work({events[40].id: error})
    assert await handle_each(events, work.handle, LIMITS) == [error] * 100
    assert work.asked == [100]


async def test_an_outage_while_events_are_tried_alone_ends_that_and_what_was_done_is_done() -> None:
    events = [changed(user) for user in range(100)]
    error = AutoReconnect("away")
    work = Work({events[0].id: ValueError("a bug"), events[30].id: error})
    outcomes = await handle_each(events, work.handle, LIMITS)
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1:30] == [Handled.DONE] * 29
    assert outcomes[-1] is error
    assert [outcome is Handled.DONE for outcome in outcomes] == [event.id in work.done for event in events]
    assert len(work.asked) < 60


async def test_a_handler_that_answers_for_too_few_has_failed() -> None:
    async def handle(events: Sequence[RankChanged]) -> list[Outcome]:
        return [Handled.DONE for _ in events[1:]]

    outcomes = await handle_each([changed(1), changed(2)], handle, LIMITS)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]


@given(
    kinds=strategies.lists(strategies.sampled_from(["good", "locked", "bug"]), max_size=40),
    people=strategies.integers(1, 5),
    most=strategies.integers(1, 40),
)
def test_whatever_fails_each_answers_for_itself_and_is_done_once(
    kinds: list[str], people: int, most: int
) -> None:
    events = [changed(number % people) for number in range(len(kinds))]
    made = {"locked": Locked(), "bug": ValueError("a bug")}
    locked = {event.user for event, kind in zip(events, kinds, strict=True) if kind == "locked"}
    errors = {event.id: made[kind] for event, kind in zip(events, kinds, strict=True) if kind in made}
    errors |= {event.id: made["locked"] for event in events if event.user in locked}
    work = Work(errors, most)
    outcomes = asyncio.run(handle_each(events, work.handle, LIMITS))
    assert outcomes == [errors.get(event.id, Handled.DONE) for event in events]
    assert set(work.done.values()) <= {1}


def test_the_newest_version_of_each_counts_in_whatever_order_they_come() -> None:
    known = {"a": 2}
    versions = [("a", 2), ("a", 4), ("b", 1), ("a", 3), ("b", 1), ("a", 5)]
    assert are_newer(known, versions) == [False, True, True, False, False, True]
    assert known == {"a": 2}
