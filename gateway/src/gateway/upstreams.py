"""Calling the services behind the gateway: in the same process, or over HTTP to one of the replicas."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

from starlette.types import ASGIApp, Message

from common.app import DRAIN_SECONDS
from common.errors import Unavailable
from common.peers import TOKEN_HEADER, Apps
from gateway.client import Client, Lost, NotConnected
from gateway.errors import UpstreamLost, UpstreamSlow
from gateway.incoming import HOP_BY_HOP, Header
from gateway.settings import GatewaySettings

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
        self._replicas = {name: _Replicas(urls) for name, urls in self._settings.upstreams.items()}
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
            if app := self._apps.get(service):
                async with asyncio.timeout(request.seconds):
                    return await _call_app(app, request._replace(headers=headers))
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
        for client in replicas.in_turn():
            try:
                status, answered, body, is_last = await client.send(
                    request.method, target, headers, request.body, deadline
                )
            except NotConnected:
                continue
            except Lost:
                was_sent = True
                if not request.repeatable:
                    break
            else:
                if is_last:
                    replicas.note_leaving(client)
                return Answer(status, _passed_on(answered), body)
        raise UpstreamLost(service) if was_sent else Unavailable(service)


class _Replicas:
    """Where a service listens: each address gets its turn to be the first to be tried.

    A replica that stops says so in its answers. From then on it comes last, so that no request reaches it just
    when it stops listening.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._clients = [Client(url) for url in urls]
        self._turn = itertools.count()
        self._left: dict[Client, float] = {}

    def note_leaving(self, client: Client) -> None:
        """This replica is about to stop."""
        self._left[client] = time.monotonic() + DRAIN_SECONDS

    def in_turn(self) -> list[Client]:
        """Every replica once; the only one twice, as a service that restarts closes its connections."""
        if len(self._clients) == 1:
            return self._clients * 2
        first = next(self._turn) % len(self._clients)
        clients = [*self._clients[first:], *self._clients[:first]]
        if self._left:
            now = time.monotonic()
            self._left = {client: end for client, end in self._left.items() if end > now}
            clients.sort(key=self._left.__contains__)
        return clients

    def close(self) -> None:
        """Close the connections to all of them."""
        for client in self._clients:
            client.close()


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
