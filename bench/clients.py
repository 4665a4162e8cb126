"""HTTP clients that could carry the gateway's hop, each as a server: `python -m bench.clients PORT CLIENT FORM BASE`.

FORM is `alone`, an ASGI app that forwards to BASE and does nothing else, or `gateway`, the gateway itself with
this client in place of its own; `own` is the gateway's, where nothing is replaced. Clients that are not installed
cannot be served.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import timedelta
from importlib import import_module
from typing import Any

import uvicorn

import gateway.main
from common.outgoing.client import Client
from common.outgoing.limits import OutgoingLimits
from common.outgoing.message import Answer, Outgoing
from common.server import run
from common.settings import read_settings
from gateway.settings import GatewaySettings

Send = Callable[[Outgoing], Awaitable[Answer]]
Open = Callable[[str], AbstractAsyncContextManager[Send]]

CONNECTIONS = 128


def _url(base: str, request: Outgoing) -> str:
    return f"{base}{request.path}?{request.query.decode()}" if request.query else base + request.path


def _pairs(request: Outgoing) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]


def _kept(headers: Any) -> list[tuple[bytes, bytes]]:
    """What of an answer's headers goes on, from pairs of text."""
    return [
        (name.lower().encode(), value.encode())
        for name, value in headers
        if name.lower() in ("content-type", "content-length")
    ]


@asynccontextmanager
async def with_aiohttp(base: str) -> AsyncIterator[Send]:
    """aiohttp, with what costs time turned off."""
    aiohttp, yarl = import_module("aiohttp"), import_module("yarl")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        auto_decompress=False,
    ) as session:

        async def send(request: Outgoing) -> Answer:
            url = yarl.URL(_url(base, request), encoded=True)
            async with session.request(
                request.method,
                url,
                headers=_pairs(request),
                data=request.body or None,
                allow_redirects=False,
            ) as answer:
                return Answer(answer.status, _kept(answer.headers.items()), await answer.read())

        yield send


@asynccontextmanager
async def with_httpx(base: str, module: str = "httpx") -> AsyncIterator[Send]:
    """httpx, and httpx2, which has the same interface."""
    httpx = import_module(module)
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=10) as client:

        async def send(request: Outgoing) -> Answer:
            answer = await client.request(
                request.method, _url(base, request), headers=_pairs(request), content=request.body
            )
            return Answer(answer.status_code, _kept(answer.headers.items()), answer.content)

        yield send


@asynccontextmanager
async def with_pyreqwest(base: str) -> AsyncIterator[Send]:
    """pyreqwest: reqwest of Rust, on a thread of its own."""
    builder = import_module("pyreqwest.client").ClientBuilder()
    client = (
        builder.max_connections(CONNECTIONS)
        .pool_idle_timeout(timedelta(seconds=2))
        .connect_timeout(timedelta(seconds=1))
        .follow_redirects(False)
        .no_proxy()
        .http1_only()
        .build()
    )
    async with client:

        async def send(request: Outgoing) -> Answer:
            prepared = client.request(request.method, _url(base, request)).headers(_pairs(request))
            if request.body:
                prepared = prepared.body_bytes(request.body)
            answer = await prepared.build().send()
            return Answer(answer.status, _kept(answer.headers.items()), bytes(await answer.bytes()))

        yield send


@asynccontextmanager
async def with_pyqwest(base: str) -> AsyncIterator[Send]:
    """pyqwest: another of reqwest."""
    pyqwest = import_module("pyqwest")
    async with pyqwest.HTTPTransport(http_version=pyqwest.HTTPVersion.HTTP1) as transport:
        client = pyqwest.Client(transport)

        async def send(request: Outgoing) -> Answer:
            answer = await client.execute(
                request.method, _url(base, request), headers=_pairs(request), content=request.body or None
            )
            return Answer(answer.status, _kept(answer.headers.items()), answer.content)

        yield send


@asynccontextmanager
async def with_niquests(base: str) -> AsyncIterator[Send]:
    """niquests."""
    niquests = import_module("niquests")
    async with niquests.AsyncSession(
        pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS, disable_http2=True, disable_http3=True
    ) as session:
        session.trust_env = False

        async def send(request: Outgoing) -> Answer:
            answer = await session.request(
                request.method, _url(base, request), headers=dict(_pairs(request)), data=request.body or None
            )
            return Answer(answer.status_code, _kept(answer.headers.items()), answer.content)

        yield send


@asynccontextmanager
async def with_aiosonic(base: str) -> AsyncIterator[Send]:
    """aiosonic."""
    aiosonic = import_module("aiosonic")
    pools = {":default": import_module("aiosonic.pools").PoolConfig(size=CONNECTIONS)}
    connector = import_module("aiosonic.connectors").TCPConnector(pool_configs=pools)
    async with aiosonic.HTTPClient(connector=connector) as client:

        async def send(request: Outgoing) -> Answer:
            answer = await client.request(
                _url(base, request), request.method, headers=_pairs(request), data=request.body or None
            )
            return Answer(answer.status_code, _kept(answer.headers.items()), await answer.content())

        yield send


@asynccontextmanager
async def with_own(base: str) -> AsyncIterator[Send]:
    """The gateway's own."""
    with closing(Client(base, limits=OutgoingLimits())) as client:

        async def send(request: Outgoing) -> Answer:
            target = request.path.encode() + (b"?" + request.query if request.query else b"")
            deadline = asyncio.get_running_loop().time() + request.seconds
            status, headers, body, _ = await client.send(
                request.method, target, request.headers, request.body, deadline
            )
            kept = [header for header in headers if header[0] in (b"content-type", b"content-length")]
            return Answer(status, kept, body)

        yield send


@asynccontextmanager
async def with_httpx2(base: str) -> AsyncIterator[Send]:
    """httpx2."""
    async with with_httpx(base, "httpx2") as send:
        yield send


@asynccontextmanager
async def with_nothing(_: str) -> AsyncIterator[Send]:
    """No hop at all: what is left for it to cost."""
    body = b'{"certifications":"char,tot","auth":true,"clearance":1}'

    async def send(_: Outgoing) -> Answer:
        return Answer(200, [(b"content-length", b"%d" % len(body))], body)

    yield send


KEPT_WELL: Mapping[str, Open] = {
    "aiohttp": with_aiohttp,
    "pyreqwest": with_pyreqwest,
    "pyqwest": with_pyqwest,
    "httpx": with_httpx,
    "httpx2": with_httpx2,
    "niquests": with_niquests,
    "aiosonic": with_aiosonic,
}
OWN, NO_HOP = "own", "no-hop"
CLIENTS: Mapping[str, Open] = {**KEPT_WELL, OWN: with_own, NO_HOP: with_nothing}


def forwarder(open_client: Open, base: str) -> Any:
    """An ASGI app that forwards, and does nothing else."""
    send_on: Send | None = None
    opened = open_client(base)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal send_on
        if scope["type"] == "lifespan":
            await receive()
            send_on = await opened.__aenter__()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await opened.__aexit__(None, None, None)
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = [header for header in scope["headers"] if header[0] != b"host"]
        assert send_on  # noqa: S101 - it was opened at the start
        answer = await send_on(
            Outgoing(scope["method"], scope["path"], scope["query_string"], headers, repeatable=True)
        )
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    return app


class Hop:
    """Takes the place of the gateway's `Upstreams`."""

    def __init__(self, open_client: Open, base: str) -> None:
        self._opened = open_client(base)
        self._send: Send | None = None

    async def __aenter__(self) -> "Hop":
        self._send = await self._opened.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.__aexit__(None, None, None)

    async def send(self, _: str, request: Outgoing) -> Answer:
        assert self._send  # noqa: S101 - it was entered
        async with asyncio.timeout(request.seconds):
            return await self._send(request)


def serve(port: int, client: str, form: str, base: str) -> None:
    """Serve until stopped."""
    if form == "alone":
        uvicorn.run(
            forwarder(CLIENTS[client], base),
            port=port,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        return

    settings = read_settings(GatewaySettings, port=port, upstreams={"accounts": [base]})
    if client != OWN:
        vars(gateway.main)["Upstreams"] = lambda _settings, _apps: Hop(CLIENTS[client], base)
    run(gateway.main.create(settings), settings, "gateway")


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
