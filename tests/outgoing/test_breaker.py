"""When a replica gets no requests, and when it gets them again."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY

from common.outgoing.breaker import ProbingBreaker
from common.outgoing.limits import OutgoingLimits
from tests.outgoing.wire import limits
from tests.support import unique_id, wait_until

AT_ONCE = limits(probe_seconds=0.0, probe_every=0.0)


@dataclass
class Probed:
    """A replica that answers a probe when the test says so, or at once."""

    probes: list[asyncio.Future[bool]] = field(default_factory=list)
    at_once: bool | None = None
    opened: int = 0

    async def probe(self) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.probes.append(answer)
        if self.at_once is not None:
            await asyncio.sleep(0)
            return self.at_once
        return await answer

    def note_opening(self) -> None:
        self.opened += 1


@asynccontextmanager
async def breaking(
    own: OutgoingLimits = AT_ONCE, *, service: str = "it", at_once: bool | None = None
) -> AsyncIterator[tuple[ProbingBreaker, Probed]]:
    replica = Probed(at_once=at_once)
    breaker = ProbingBreaker(service, "10.0.0.7", own, replica.probe, replica.note_opening)
    try:
        yield breaker, replica
    finally:
        await breaker.stop()


def fail(breaker: ProbingBreaker, times: int) -> None:
    for _ in range(times):
        breaker.note_failure()


async def test_it_opens_after_so_many_failures_in_a_row() -> None:
    async with breaking() as (breaker, replica):
        fail(breaker, AT_ONCE.max_failures - 1)
        breaker.note_answer()
        fail(breaker, AT_ONCE.max_failures - 1)
        assert (breaker.is_open, replica.opened) == (False, 0)
        fail(breaker, 3)
        assert (breaker.is_open, replica.opened) == (True, 1)


async def test_an_open_one_probes_until_it_is_answered_and_closes() -> None:
    async with breaking(at_once=False) as (breaker, replica):
        fail(breaker, AT_ONCE.max_failures)
        await wait_until(lambda: len(replica.probes) > 3)
        assert breaker.is_open
        replica.at_once = True
        await wait_until(lambda: not breaker.is_open)
        fail(breaker, AT_ONCE.max_failures - 1)
        assert not breaker.is_open


async def test_a_silent_replica_that_answers_a_probe_stays_closed() -> None:
    async with breaking(limits()) as (breaker, replica):
        for turn in range(1, 3):
            breaker.probe()
            breaker.probe()
            await wait_until(lambda: len(replica.probes) == turn)  # noqa: B023
            replica.probes[-1].set_result(True)
            await wait_until(lambda: breaker._probing is not None and breaker._probing.done())
        assert (breaker.is_open, replica.opened) == (False, 0)


async def test_a_probe_that_is_late_opens_and_its_late_answer_closes() -> None:
    async with breaking() as (breaker, replica):
        breaker.probe()
        await wait_until(lambda: breaker.is_open)
        assert (len(replica.probes), replica.opened) == (1, 1)
        replica.probes[0].set_result(True)
        await wait_until(lambda: not breaker.is_open)
        assert len(replica.probes) == 1


async def test_a_probe_that_fails_opens_at_once() -> None:
    async with breaking(limits(), at_once=False) as (breaker, _):
        breaker.probe()
        await wait_until(lambda: breaker.is_open)


async def test_a_late_answer_to_a_request_closes_too_and_ends_the_probing() -> None:
    async with breaking() as (breaker, replica):
        breaker.probe()
        await wait_until(lambda: breaker.is_open)
        breaker.note_answer()
        assert not breaker.is_open
        await wait_until(lambda: replica.probes[0].cancelled())
        breaker.probe()
        await wait_until(lambda: len(replica.probes) == 2)


async def test_what_opens_it_again_at_once_is_probed_again() -> None:
    async with breaking(limits()) as (breaker, replica):
        fail(breaker, AT_ONCE.max_failures)
        breaker.note_answer()
        fail(breaker, AT_ONCE.max_failures)
        await wait_until(lambda: bool(replica.probes))
        replica.probes[-1].set_result(True)
        await wait_until(lambda: not breaker.is_open)


async def test_one_that_is_listed_no_more_is_probed_no_longer() -> None:
    async with breaking(at_once=False) as (breaker, replica):
        fail(breaker, AT_ONCE.max_failures)
        await wait_until(lambda: len(replica.probes) > 1)
        breaker.retire()
        await asyncio.sleep(0)
        probes = len(replica.probes)
        breaker.probe()  # once, so that the requests that are under way there go elsewhere
        await wait_until(lambda: bool(breaker._probing and breaker._probing.done()))
        assert (breaker.is_open, len(replica.probes)) == (True, probes + 1)


async def test_nothing_goes_on_once_it_is_stopped() -> None:
    before = asyncio.all_tasks()
    async with breaking() as (breaker, _):
        breaker.probe()
        await wait_until(lambda: breaker.is_open)
    assert asyncio.all_tasks() <= before


async def test_its_state_is_counted_and_each_change_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = f"it{unique_id()}"

    def opened() -> float | None:
        return REGISTRY.get_sample_value("callboard_upstream_replicas_open", {"upstream": service})

    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "common.outgoing.breaker"]

    caplog.set_level(logging.WARNING)
    async with breaking(service=service) as (breaker, _):
        fail(breaker, AT_ONCE.max_failures)
        assert opened() == 1
        breaker.note_answer()
        assert opened() == 0
        assert told() == [
            f"{service} at 10.0.0.7 does not answer: no request is sent there until it does",
            f"{service} at 10.0.0.7 answers again",
        ]
        fail(breaker, AT_ONCE.max_failures)
        assert opened() == 1
    assert opened() == 0
