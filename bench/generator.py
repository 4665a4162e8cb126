"""Load over plain sockets, closed or open loop: `python -m bench.generator`, the task as JSON on standard input.

A closed loop sends on each connection as soon as it is answered, as wrk does. An open loop sends at a
constant rate, whatever the server does, and counts from the moment at which a request was due: what waits
for a free connection, because earlier answers are late, is late itself (no coordinated omission).

It prints one JSON line for each `window` of seconds: what was answered, and how long each kind took.
"""

import asyncio
import gc
import json
import selectors
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import httptools

from bench.traffic import Kind, Traffic, request_maker

_GRACE_SECONDS = 5.0
"""How long what is under way at the end may take; what then has no answer counts as failed."""


class Tally:
    """What was answered in one window, by kind of traffic."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.seconds = {kind: array("d") for kind in kinds}
        self.failed: dict[str, Counter[int]] = {kind: Counter() for kind in kinds}

    def summary(self, elapsed: float) -> dict[str, Any]:
        """By kind: requests per second that succeeded, milliseconds of all, and how often which status came.

        Status 0 is a connection that was lost, or no answer in time.
        """
        return {
            kind: {
                "rate": (len(seconds) - self.failed[kind].total()) / elapsed,
                "requests": len(seconds),
                "failed": self.failed[kind].total(),
                "statuses": self.failed[kind],
                **_percentiles(seconds),
            }
            for kind, seconds in self.seconds.items()
        }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0
        for name, share in shares.items()
    }


class Connection(asyncio.Protocol):
    """One connection to the server; carries one request at a time."""

    def __init__(self, on_answer: Callable[["Connection", int], None]) -> None:
        self._on_answer = on_answer
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.kind = ""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection can be used."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP gives no other
        self._transport = transport

    def send(self, kind: str, request: bytes, due: float) -> None:
        """Send a request that was due at this moment."""
        self.kind, self.due = kind, due
        assert self._transport  # noqa: S101 - it is connected before it is used
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        self._on_answer(self, status)

    def connection_lost(self, _: Exception | None) -> None:
        """What it carried has no answer."""
        if self.kind:
            self._on_answer(self, 0)


class Generator:
    """Sends the traffic, and counts what is answered."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._connections: int = task["connections"]
        self._seconds: float = task["seconds"]
        self._rate: float | None = task["rate"]
        self._window: float = task["window"] or task["seconds"]
        traffics = [Traffic(**values) for values in task["traffic"]]
        self._port = traffics[0].port
        self._makers = {traffic.kind: request_maker(traffic) for traffic in traffics}
        self._turns = _turns([(traffic.kind, traffic.share) for traffic in traffics])
        self._turn = 0
        self._tally = Tally(list(self._makers))
        self._idle: list[Connection] = []
        self._queue: deque[tuple[Kind, bytes, float]] = deque()
        self._under_way = 0
        self._is_on = False

    async def run(self) -> None:
        """Send for the given time, and print each window."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._connect() for _ in range(self._connections)))
        began = window_began = time.perf_counter()
        self._is_on = True
        if self._rate is None:
            connected, self._idle = self._idle, []
            for connection in connected:
                self._use(connection)
        else:
            loop.call_soon(self._pace, began, 0, 1 / self._rate)
        while self._is_on:
            ends = min(window_began + self._window, began + self._seconds)
            await asyncio.sleep(max(0.0, ends - time.perf_counter()))
            now = time.perf_counter()
            self._is_on = now < began + self._seconds - 0.001
            if not self._is_on and self._rate is not None:
                await self._finish()
            tally, self._tally = self._tally, Tally(list(self._makers))
            print(json.dumps(tally.summary(now - window_began)), flush=True)  # noqa: T201 - the answer
            window_began = now

    async def _finish(self) -> None:
        """Wait for what was due in time; an open loop that leaves it out would look faster than it is."""
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                while self._under_way or self._queue:  # noqa: ASYNC110 - polled once, at the end
                    await asyncio.sleep(0.005)
        except TimeoutError:
            for kind, _, due in self._queue:
                self._note(kind, due, 0)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self._on_answer), "127.0.0.1", self._port
        )
        self._use(connection)

    def _use(self, connection: Connection) -> None:
        """Let the connection carry what waits; in a closed loop, the next request."""
        if self._queue:
            self._send(connection, *self._queue.popleft())
        elif self._rate is None and self._is_on:
            self._send(connection, *self._next(), time.perf_counter())
        else:
            self._idle.append(connection)

    def _next(self) -> tuple[Kind, bytes]:
        kind = self._turns[self._turn % len(self._turns)]
        self._turn += 1
        return kind, self._makers[kind]()

    def _send(self, connection: Connection, kind: str, request: bytes, due: float) -> None:
        self._under_way += 1
        connection.send(kind, request, due)

    def _pace(self, began: float, sent: int, interval: float) -> None:
        """Send all that is due by now, and come back when the next is due."""
        now = time.perf_counter()
        while (due := began + sent * interval) <= now and due < began + self._seconds:
            sent += 1
            if self._idle:
                self._send(self._idle.pop(), *self._next(), due)
            else:
                self._queue.append((*self._next(), due))
        if due < began + self._seconds:
            asyncio.get_running_loop().call_later(due - now, self._pace, began, sent, interval)

    def _on_answer(self, connection: Connection, status: int) -> None:
        self._under_way -= 1
        self._note(connection.kind, connection.due, status)
        connection.kind = ""
        if status:
            self._use(connection)
        else:  # it is gone
            asyncio.ensure_future(self._connect())  # noqa: RUF006 - it ends with the loop

    def _note(self, kind: str, due: float, status: int) -> None:
        self._tally.seconds[kind].append(time.perf_counter() - due)
        if not 200 <= status < 300:
            self._tally.failed[kind][status] += 1


def _turns(shares: Sequence[tuple[Kind, int]]) -> list[Kind]:
    """The kinds in an order that spreads each evenly, as often as its share says."""
    whole = sum(share for _, share in shares)
    turns = [((number + 0.5) * whole / share, kind) for kind, share in shares for number in range(share)]
    return [kind for _, kind in sorted(turns)]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    gc.disable()  # it allocates no cycles, and must not pause
    # uvloop and epoll wake up on whole milliseconds, which is longer than some answers take; select does not.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(Generator(given).run())
