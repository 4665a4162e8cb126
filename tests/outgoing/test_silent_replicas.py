"""Two replicas of a service, of which one says nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from common.errors import Unavailable
from common.outgoing.client import _LOOK_SECONDS
from common.outgoing.limits import OutgoingLimits
from common.outgoing.message import Answer, Outgoing
from common.outgoing.remote import RemoteService
from tests.outgoing.wire import OK, SOON, Server, Wire, at, limits, listening, look
from tests.support import wait_until

SOON_SILENT = limits(silent_seconds=0.0, probe_seconds=0.0, probe_every=0.02, locked_every=0.02)
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@dataclass
class Replica:
    """A server that answers what it is told to: probes or requests."""

    server: Server
    answers: set[str] = field(default_factory=set)
    probes: int = 0
    refusals: int = 0
    """So many requests more are answered by 503."""
    requests: list[bytes] = field(default_factory=list)
    is_thawed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                wire = await self.server.wires.get()
                tasks.create_task(self._serve(wire))

    async def _serve(self, wire: Wire) -> None:
        try:
            while True:
                head = await wire.request()
                is_probe = head.startswith(b"GET /healthz ")
                if is_probe:
                    self.probes += 1
                else:
                    self.requests.append(head)
                if ("probes" if is_probe else "requests") not in self.answers:
                    await self.is_thawed.wait()
                if self.refusals and not is_probe:
                    self.refusals -= 1
                    await wire.say(REFUSAL)
                else:
                    await wire.say(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def thaw(self) -> None:
        """Answer everything, also what waits."""
        self.is_thawed.set()


@asynccontextmanager
async def replicas(
    *answers: set[str], own: OutgoingLimits = SOON_SILENT
) -> AsyncIterator[tuple[RemoteService, list[Replica]]]:
    """Replicas that answer so much, and the service that they are, which asks the first of them first."""
    async with listening() as one, listening() as other:
        servers = [Replica(server, answered) for server, answered in zip((one, other), answers, strict=False)]
        serving = [asyncio.create_task(replica.serve()) for replica in servers]
        urls = [f"http://127.0.0.1:{replica.server.port}" for replica in servers]
        try:
            async with at(*urls, limits=own) as it:
                yield it, servers
        finally:
            for task in serving:
                task.cancel()
            await asyncio.wait(serving)


ALL = {"probes", "requests"}


def send(it: RemoteService, repeatable: bool, seconds: float = SOON) -> asyncio.Task[Answer]:
    return asyncio.create_task(it.send(Outgoing("POST", "/it", seconds=seconds, repeatable=repeatable)))


def open_ones(it: RemoteService) -> int:
    return sum(replica.breaker.is_open for replica in it._replicas.all)


async def test_what_may_be_repeated_goes_to_the_other_and_what_may_not_waits_on() -> None:
    async with replicas(set(), ALL) as (it, (frozen, _)):
        single = send(it, repeatable=False)
        await wait_until(lambda: len(frozen.requests) == 1)
        await wait_until(lambda: open_ones(it) == 1)
        for _ in range(6):
            assert (await send(it, repeatable=True)).status == 200
            assert (await send(it, repeatable=False)).status == 200
        assert (len(frozen.requests), single.done()) == (1, False)
        frozen.thaw()
        assert (await single).status == 200
        await wait_until(lambda: open_ones(it) == 0)
        for _ in range(2):
            assert (await send(it, repeatable=False)).status == 200
        assert len(frozen.requests) > 1


async def test_a_repeatable_request_that_met_the_silent_one_is_answered_by_the_other() -> None:
    async with replicas(set(), ALL) as (it, (frozen, other)):
        assert (await send(it, repeatable=True)).status == 200
        assert (len(frozen.requests), len(other.requests)) == (1, 1)


async def test_what_the_silent_one_holds_locked_is_tried_again_until_it_is_free() -> None:
    async with replicas(set(), ALL) as (it, (frozen, other)):
        other.refusals = 2
        assert (await send(it, repeatable=True)).status == 200
        assert (len(frozen.requests), len(other.requests)) == (1, 3)


async def test_a_refusal_of_the_first_that_is_asked_is_for_the_caller() -> None:
    async with replicas(ALL, ALL) as (it, (one, other)):
        one.refusals = 1
        assert (await send(it, repeatable=True)).status == 503
        assert (len(one.requests), len(other.requests)) == (1, 0)


async def test_one_that_is_slow_and_alive_is_waited_for() -> None:
    async with replicas({"probes"}, ALL) as (it, (slow, other)):
        request = send(it, repeatable=True)
        await wait_until(lambda: slow.probes > 3)
        assert not request.done()
        slow.thaw()
        assert (await request).status == 200
        assert (len(slow.requests), len(other.requests), open_ones(it)) == (1, 0, 0)


async def test_a_silent_one_gets_half_of_the_time_while_there_is_another() -> None:
    async with replicas(set(), set(), own=limits()) as (it, (one, other)):
        request = send(it, repeatable=True)
        await wait_until(lambda: len(one.requests) == 1)
        first, second = it._replicas.all
        look(first.client, int(SOON / 2 / _LOOK_SECONDS) + 2)
        await wait_until(lambda: len(other.requests) == 1)
        look(second.client, 10 * int(SOON / _LOOK_SECONDS))
        assert not request.done()
        other.thaw()
        assert (await request).status == 200


async def test_when_all_are_silent_requests_fail_at_once_until_one_answers() -> None:
    async with replicas(set(), set()) as (it, servers):
        under_way = [send(it, repeatable=False) for _ in range(2)]
        await wait_until(lambda: open_ones(it) == 2)
        for repeatable in (True, False):
            with pytest.raises(Unavailable):
                await send(it, repeatable)
        assert not any(request.done() for request in under_way)
        for replica in servers:
            replica.thaw()
        for request in under_way:
            assert (await request).status == 200
        await wait_until(lambda: open_ones(it) == 0)
        assert (await send(it, repeatable=False)).status == 200


async def test_the_only_replica_is_waited_for_while_it_is_silent() -> None:
    async with replicas(set()) as (it, (frozen,)):
        request = send(it, repeatable=True)
        await wait_until(lambda: open_ones(it) == 1)
        frozen.thaw()
        assert (await request).status == 200
        assert len(frozen.requests) == 1
