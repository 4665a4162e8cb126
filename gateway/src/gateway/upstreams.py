"""Calling the services behind the gateway: in the same process, or over HTTP to one of the replicas."""

import asyncio
import itertools
import logging
import ssl
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from prometheus_client import Counter
from starlette.types import ASGIApp, Message

from common import metrics
from common.errors import BrokenOff, Unavailable
from common.outgoing.breaker import Breaker
from common.outgoing.client import Busy, Client, Header, Lost, NotConnected
from common.outgoing.headers import TOKEN_HEADER
from common.outgoing.local import Apps
from common.outgoing.peer import addresses
from common.server import DRAIN_SECONDS
from gateway.errors import UpstreamLost, UpstreamSlow
from gateway.incoming import HOP_BY_HOP
from gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

MOST_UNDER_WAY = 1024
"""Requests to a service of the same process; the next is refused at once rather than kept waiting."""
_LOOK_SECONDS = 0.1

SECONDS_BETWEEN_LOOKS = 1.0
"""How often it is asked which addresses the name of a service stands for."""
LONGEST_LOOK_SECONDS = 1.0
"""How long requests wait for the first addresses, and after a time without requests. Others use those known before."""
OLD_SECONDS = 10.0
"""Addresses that nobody looked up for this long may all be gone."""

_NOT_ANSWERED = HOP_BY_HOP | {b"date", b"server", b"x-request-id"}
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class Outgoing(NamedTuple):
    """A request to a service; `repeatable` says that sending it twice does no harm."""

    method: str
    path: str
    query: bytes = b""
    headers: Sequence[Header] = ()
    body: bytes = b""
    seconds: float = 10.0
    repeatable: bool = False


class Answer(NamedTuple):
    """What is answered, whole."""

    status: int
    headers: list[Header]
    body: bytes


class Upstreams:
    """The services by name. Enter it before the first call."""

    def __init__(self, settings: GatewaySettings, apps: Apps) -> None:
        self._settings = settings
        self._local = {name: _LocalService(name, app) for name, app in apps.items()}
        self._token = (TOKEN_HEADER.encode(), settings.internal_token.get_secret_value().encode())
        self._replicas: dict[str, _Replicas] = {}

    async def __aenter__(self) -> "Upstreams":
        named = self._settings.upstreams
        uses_tls = any(url.startswith("https:") for urls in named.values() for url in urls)
        tls = ssl.create_default_context() if uses_tls else None
        self._replicas = {name: _Replicas(urls, tls) for name, urls in named.items()}
        return self

    async def __aexit__(self, *_: object) -> None:
        for replicas in self._replicas.values():
            replicas.close()

    async def send(self, service: str, request: Outgoing) -> Answer:
        """The service's answer.

        Raises Unavailable when no replica can be reached, UpstreamLost when one broke off, and UpstreamSlow.
        """
        headers = [*request.headers, self._token]
        try:
            if local := self._local.get(service):
                return await local.call(request._replace(headers=headers))
            return await self._call_replicas(service, request, headers)
        except TimeoutError:
            raise UpstreamSlow(service) from None

    async def _call_replicas(self, service: str, request: Outgoing, headers: Sequence[Header]) -> Answer:
        replicas = self._replicas.get(service)
        if replicas is None:
            replicas = self._replicas[service] = _Replicas([f"http://{service}:8000"])
        target = request.path.encode() + (b"?" + request.query if request.query else b"")
        deadline = asyncio.get_running_loop().time() + request.seconds
        was_sent = False
        for replica in await replicas.in_turn():
            if not replica.breaker.lets_pass():
                continue
            try:
                status, answered, body, is_last = await replica.client.send(
                    request.method, target, headers, request.body, deadline
                )
            except TimeoutError:
                replica.breaker.note_failure()
                _failures(service, "slow").inc()
                raise
            except Busy:
                _failures(service, "busy").inc()
            except NotConnected:
                replica.breaker.note_failure()
                _failures(service, "unreachable").inc()
            except Lost:
                replica.breaker.note_failure()
                _failures(service, "lost").inc()
                was_sent = True
                if not request.repeatable:
                    break
            else:
                replica.breaker.note_answer()
                if is_last:
                    replica.leaving_until = time.monotonic() + DRAIN_SECONDS
                if status != 401:
                    return Answer(status, _passed_on(answered), body)
                # Our token is not its own, as while one is replaced: it did nothing, and it is not for the caller,
                # who has a key.
                _failures(service, "refused").inc()
        raise UpstreamLost(service) if was_sent else Unavailable(service)


class _LocalService:
    """A service of this process, with a bound on what is under way and a time limit for each request.

    One timer for all requests: measured, `asyncio.timeout` for each would cost a tenth of the gateway's part.
    """

    def __init__(self, name: str, app: ASGIApp) -> None:
        self._name = name
        self._app = app
        self._due: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._is_watched = False

    async def call(self, request: Outgoing) -> Answer:
        """The app's answer. Raises TimeoutError, up to `_LOOK_SECONDS` late, Unavailable and UpstreamLost."""
        if len(self._due) >= MOST_UNDER_WAY:
            raise Unavailable(self._name)
        task = asyncio.current_task()
        assert task  # noqa: S101 - coroutines run in tasks
        self._due[task] = time.monotonic() + request.seconds
        if not self._is_watched:
            self._look()
        try:
            return await _call_app(self._app, request)
        except BrokenOff:
            _failures(self._name, "lost").inc()
            raise UpstreamLost(self._name) from None
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            del self._due[task]
            self._late.discard(task)

    def _look(self) -> None:
        now = time.monotonic()
        for task, due in self._due.items():
            if now >= due and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._is_watched = bool(self._due)
        if self._is_watched:
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)


class _Replica:
    """One address of a service. When it stops, it says so in its answers: `leaving_until` then, it comes last."""

    def __init__(self, url: str, address: str, tls: ssl.SSLContext | None) -> None:
        self.address = address
        self.client = Client(url, address, tls=tls)
        self.breaker = Breaker()
        self.leaving_until = 0.0


class _Replicas:
    """Where a service listens: each address gets its turn to be the first to be tried.

    A name may stand for several addresses, which come and go: of containers, or of pods behind a headless
    Service.
    """

    def __init__(self, urls: Sequence[str], tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._unresolved: set[str] = set()
        self._found: dict[str, list[_Replica]] = {url: [] for url in urls}
        self._all: list[_Replica] = []
        self._turn = itertools.count()
        self._next_look = 0.0
        self._wait_until = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def in_turn(self) -> Sequence[_Replica]:
        """Every replica once; the only one twice, as a service that restarts closes its connections."""
        now = time.monotonic()
        if now >= self._next_look or not self._all:
            if not self._all or now - self._next_look > OLD_SECONDS:
                self._wait_until = now + LONGEST_LOOK_SECONDS
            self._next_look = now + SECONDS_BETWEEN_LOOKS
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_up())
        if self._looking and now < self._wait_until and not self._looking.done():
            await asyncio.wait([self._looking], timeout=self._wait_until - now)
        if len(self._all) == 1:
            return self._all * 2
        first = next(self._turn) % max(1, len(self._all))
        replicas = [*self._all[first:], *self._all[:first]]
        # No request should reach one just when it stops listening.
        replicas.sort(key=lambda replica: replica.leaving_until > now)
        return replicas

    async def _look_up(self) -> None:
        """Find who is there now. Who was there before is kept, and all of a name that cannot be looked up."""
        for url, known in self._found.items():
            there = {replica.address: replica for replica in known}
            host = urlsplit(url).hostname or ""
            try:
                present = await addresses(host)
            except (OSError, UnicodeError) as error:
                if url not in self._unresolved:
                    self._unresolved.add(url)
                    logger.warning(
                        "%s cannot be looked up, %d addresses stay in use: %s", host, len(known), error
                    )
                continue
            self._unresolved.discard(url)
            self._found[url] = [
                there.get(address) or _Replica(url, address, self._tls) for address in present
            ]
        self._all = [replica for found in self._found.values() for replica in found]
        self._wait_until = 0.0

    def close(self) -> None:
        """Close the connections to all of them. Those to others ended when they had been idle for long enough."""
        if self._looking is not None:
            self._looking.cancel()
        for replica in self._all:
            replica.client.close()


@lru_cache
def _failures(service: str, reason: str) -> Counter:
    return metrics.UPSTREAM_FAILURES.labels(service, reason)


async def _call_app(app: ASGIApp, request: Outgoing) -> Answer:
    scope = {
        "type": "http",
        "asgi": _ASGI,
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query,
        "headers": [*request.headers, (b"content-length", b"%d" % len(request.body))],
        "client": None,
        "server": None,
    }
    is_read = False
    status = 0
    headers: Sequence[Header] = ()
    parts: list[bytes] = []

    async def receive() -> Message:
        nonlocal is_read
        if is_read:  # nothing more comes, and nobody disconnects
            await asyncio.get_running_loop().create_future()
        is_read = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], message.get("headers", ())
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(status, _answered(headers), b"".join(parts))


def _answered(headers: Sequence[Header]) -> list[Header]:
    return _passed_on([(name.lower(), value) for name, value in headers])


def _passed_on(headers: Sequence[Header]) -> list[Header]:
    """What a caller sees of them; their names are in lower case."""
    return [header for header in headers if header[0] not in _NOT_ANSWERED]
