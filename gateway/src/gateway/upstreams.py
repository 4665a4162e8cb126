"""Calling the services behind the gateway: in the same process, or over HTTP to one of the replicas."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import aiohttp
from starlette.types import ASGIApp, Message
from yarl import URL

from common.app import DRAIN_SECONDS
from common.errors import Unavailable
from common.peers import LONGEST_IDLE_SECONDS, TOKEN_HEADER, Apps
from gateway.errors import UpstreamLost, UpstreamSlow
from gateway.incoming import HOP_BY_HOP, Header
from gateway.settings import GatewaySettings

CONNECT_SECONDS = 1.0
CONNECTIONS_TO_A_REPLICA = 128
"""Beyond these, requests wait: those to a service that does not answer must not use up what others need."""

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
    repeatable: bool = True


class Answer(NamedTuple):
    """What is answered, whole."""

    status: int
    headers: list[Header]
    body: bytes


class Upstreams:
    """The services by name. Enter it before the first call."""

    def __init__(self, settings: GatewaySettings, apps: Apps) -> None:
        self._settings = settings
        self._apps = apps
        self._token = (TOKEN_HEADER.encode(), settings.internal_token.get_secret_value().encode())
        self._replicas: dict[str, _Replicas] = {}

    async def __aenter__(self) -> "Upstreams":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=CONNECTIONS_TO_A_REPLICA, keepalive_timeout=LONGEST_IDLE_SECONDS
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, service: str, request: Outgoing) -> Answer:
        """The service's answer.

        Raises Unavailable when no replica can be reached, UpstreamLost when one broke off, and UpstreamSlow.
        """
        request = request._replace(headers=[*request.headers, self._token])
        try:
            async with asyncio.timeout(request.seconds):
                if app := self._apps.get(service):
                    return await _call_app(app, request)
                return await self._call_replicas(service, request)
        except TimeoutError:
            raise UpstreamSlow(service) from None

    async def _call_replicas(self, service: str, request: Outgoing) -> Answer:
        replicas = self._replicas.get(service)
        if replicas is None:
            urls = self._settings.upstreams.get(service, [f"http://{service}:8000"])
            replicas = self._replicas[service] = _Replicas(urls)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
        target = f"{request.path}?{request.query.decode()}" if request.query else request.path
        was_sent = False
        for base in replicas.in_turn():
            try:
                async with self._session.request(
                    request.method,
                    URL(base + target, encoded=True),
                    headers=headers,
                    data=request.body or None,
                    allow_redirects=False,
                ) as answer:
                    if answer.headers.get("Connection") == "close":
                        replicas.note_leaving(base)
                    return Answer(answer.status, _answered(answer.raw_headers), await answer.read())
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue
            except (aiohttp.ClientError, OSError):
                was_sent = True
                if not request.repeatable:
                    break
        raise UpstreamLost(service) if was_sent else Unavailable(service)


class _Replicas:
    """Where a service listens: each address gets its turn to be the first to be tried.

    A replica that stops says so in its answers. From then on it comes last, so that no request reaches it just
    when it stops listening.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._turn = itertools.count()
        self._left: dict[str, float] = {}

    def note_leaving(self, url: str) -> None:
        """This replica is about to stop."""
        self._left[url] = time.monotonic() + DRAIN_SECONDS

    def in_turn(self) -> list[str]:
        """Every address once; the only one twice, as a service that restarts closes its connections."""
        if len(self._urls) == 1:
            return [*self._urls] * 2
        first = next(self._turn) % len(self._urls)
        urls = [*self._urls[first:], *self._urls[:first]]
        if self._left:
            now = time.monotonic()
            self._left = {url: end for url, end in self._left.items() if end > now}
            urls.sort(key=self._left.__contains__)
        return urls


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
    lowered = ((name.lower(), value) for name, value in headers)
    return [header for header in lowered if header[0] not in _NOT_ANSWERED]
