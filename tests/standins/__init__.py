"""Other companies' servers, as their documents describe them, over real sockets.

A stand-in answers on a free port of 127.0.0.1. Its state is plain data that a test sets and reads, `requests`
is what it was asked, and `faults` says what goes wrong.
"""

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from aiohttp import web


class Fault(Enum):
    """What goes wrong with an answer."""

    LIMITED = auto()
    """429 with retry-after; nothing was done."""
    BROKEN = auto()
    """500; nothing was done."""
    AWAY = auto()
    """503; nothing was done."""
    GARBAGE = auto()
    """200 with something else than the documents describe; what was asked was done."""
    SLOW = auto()
    """The right answer, late."""
    CUT = auto()
    """The connection ends in the middle of the answer; what was asked was done."""
    CLOSED = auto()
    """The connection ends without an answer; what was asked was done."""
    HANG = auto()
    """No answer at all; what was asked was done."""


@dataclass(frozen=True)
class Forged:
    """This very answer, whatever was asked; nothing was done."""

    status: int
    body: bytes | Mapping[str, Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Received:
    """A request that a stand-in got, and when (time.monotonic)."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class Faults:
    """What goes wrong with the answers to come, in this order: what was put `next`, `always`, `at_random`."""

    def __init__(self) -> None:
        self.retry_after = 0.2
        self.slow_seconds = 0.3
        self.struck: Counter[Fault] = Counter()
        """How often each kind went wrong at random."""
        self._next: deque[tuple[Fault | Forged | None, str]] = deque()
        self._always: list[tuple[Fault | Forged, str]] = []
        self._share = 0.0
        self._kinds: Sequence[Fault] = tuple(Fault)
        self._random = random.Random(0)  # noqa: S311 - faults are no secrets

    def next(self, *faults: Fault | Forged | None, path: str = "") -> None:
        """One fault (None: all is well) for each of the next requests whose path has `path` in it."""
        self._next.extend((fault, path) for fault in faults)

    def always(self, fault: Fault | Forged, path: str = "") -> None:
        """This fault for every request whose path has `path` in it, until `clear`."""
        self._always.append((fault, path))

    def at_random(self, share: float, seed: int, kinds: Iterable[Fault] = Fault) -> None:
        """A fault of these kinds for this share of all requests (0 to 1), until `clear`."""
        self._share, self._kinds = share, tuple(kinds)
        self._random = random.Random(seed)  # noqa: S311 - as above

    def clear(self) -> None:
        """All is well from now on."""
        self._next.clear()
        self._always.clear()
        self._share = 0.0

    def draw(self, path: str) -> Fault | Forged | None:
        """What goes wrong with this request."""
        for queued in self._next:
            if queued[1] in path:
                self._next.remove(queued)
                return queued[0]
        for fault, part in self._always:
            if part in path:
                return fault
        if self._random.random() < self._share:
            fault = self._random.choice(self._kinds)
            self.struck[fault] += 1
            return fault
        return None


def odd(value: Any, chance: random.Random) -> Any:
    """The same JSON as another serializer would write it.

    Every other field that is null, false, 0 or empty text is left out, there is one that nobody knows, and the order is
    another. No list is left out: that would say something else.
    """
    if isinstance(value, list):
        return [odd(one, chance) for one in value]
    if not isinstance(value, dict):
        return value
    fields = [
        (name, odd(one, chance))
        for name, one in value.items()
        if one not in (None, False, 0, "") or chance.random() < 0.5
    ]
    fields.append(("fieldOfNextYear", {"of": [None, 1.5]}))
    chance.shuffle(fields)
    return dict(fields)


class Standin:
    """A server that answers `routes()`; a subclass adds state, its routes, and its shape of errors.

    What its routes answer in JSON is `odd`, so that each test of a client also proves that it is lenient.
    """

    def __init__(self) -> None:
        self.url = ""
        self.faults = Faults()
        self._oddities = random.Random(0)  # noqa: S311 - no secrets
        self.requests: deque[Received] = deque(maxlen=100_000)

    def routes(self) -> Iterable[web.RouteDef]:
        """What it answers."""
        raise NotImplementedError

    def failure(self, status: int) -> web.Response:
        """Its answer when it is broken (500), away (503) or asked too often (429)."""
        return web.json_response({"message": f"error {status}"}, status=status)

    def received(self, path: str = "", method: str = "") -> list[Received]:
        """The requests so far whose path has `path` in it."""
        return [one for one in self.requests if path in one.path and method in ("", one.method)]

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(
            Received(
                request.method,
                request.path,
                dict(request.query),
                dict(request.headers),
                body,
                time.monotonic(),
            )
        )
        fault = self.faults.draw(request.path)
        if isinstance(fault, Forged):
            if isinstance(fault.body, bytes):
                return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
            return web.json_response(fault.body, status=fault.status, headers=fault.headers)
        if fault is Fault.LIMITED:
            response = self.failure(429)
            response.headers["retry-after"] = f"{self.faults.retry_after:g}"
            response.headers["x-ratelimit-remaining"] = "0"
            response.headers["x-ratelimit-reset"] = f"{self.faults.retry_after:g}"
            return response
        if fault is Fault.BROKEN:
            return self.failure(500)
        if fault is Fault.AWAY:
            return self.failure(503)
        try:
            answer: web.Response = await handler(request)
            if answer.content_type == "application/json":
                answer.text = json.dumps(odd(json.loads(answer.text or ""), self._oddities))
        except web.HTTPException as error:  # no such route
            answer = web.Response(status=error.status, text=error.text)
        return await self._spoil(request, answer, fault)

    async def _spoil(
        self, request: web.Request, answer: web.Response, fault: Fault | None
    ) -> web.StreamResponse:
        if fault is Fault.GARBAGE:
            return web.Response(body=b"<!DOCTYPE html><title>Roblox</title>", content_type="text/html")
        if fault is Fault.SLOW:
            await asyncio.sleep(self.faults.slow_seconds)
        if fault is Fault.HANG:
            await asyncio.sleep(3600)
        if fault in (Fault.CUT, Fault.CLOSED):
            if fault is Fault.CUT:
                body = answer.body if isinstance(answer.body, bytes) and answer.body else b"{}"
                answer.headers["Content-Length"] = str(len(body))
                half = web.StreamResponse(status=answer.status, headers=answer.headers)
                await half.prepare(request)
                await half.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.close()
        return answer


@asynccontextmanager
async def serving(standin: Standin, port: int = 0) -> AsyncIterator[None]:
    """Let a stand-in answer on 127.0.0.1, on a free port where none is given."""
    app = web.Application(middlewares=[standin._answer], client_max_size=1 << 24)
    app.add_routes(standin.routes())
    # Who hangs is not waited for; a client that goes away ends its request.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        standin.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield
    finally:
        await runner.cleanup()
