"""Whatever fails, and whenever: a request has one answer, one line in the log, and counts once."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stderr
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from prometheus_client import REGISTRY
from starlette.background import BackgroundTask
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common import logs
from common.app import create_app
from common.errors import Unavailable
from common.outgoing.headers import TOKEN_HEADER
from common.outgoing.peer import Peer
from common.service import Service
from common.settings import Settings, read_settings
from gateway.main import create
from gateway.proxy import Proxy
from gateway.routes import Route, Routes
from gateway.settings import GatewaySettings
from gateway.upstreams import Upstreams
from tests.gateway.builders import echoes, served
from tests.gateway.raw import ask
from tests.support import Servers, running, settings, unique_id

TOKEN = "t" * 32
PATHS = ("/literal", "/with/{token}", "/dependency/{token}")
"""Each is answered in a way of its own: by the chassis, or by FastAPI."""
LATE = ("/late", "/late/{token}")
LAST = ("/last", "/last/{token}")


async def fail(_: Request) -> Response:
    raise RuntimeError("the reason")


def needs_what_fails() -> None:
    raise RuntimeError("the reason")


async def unreached(_: Request) -> Response:
    return PlainTextResponse("reached")


async def fail_late(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise RuntimeError("the reason")

    return StreamingResponse(parts())


async def fail_last(request: Request) -> Response:
    return PlainTextResponse("all of it", background=BackgroundTask(fail, request))


def odd_service() -> tuple[str, FastAPI]:
    """A service whose routes fail, under a name that its metrics have to themselves."""
    name = f"odd{unique_id()}"
    router = APIRouter()
    for path in PATHS:
        if path.startswith("/dependency"):
            router.add_api_route(path, unreached, dependencies=[Depends(needs_what_fails)])
        else:
            router.add_api_route(path, fail)
    for path in LATE:
        router.add_api_route(path, fail_late)
    for path in LAST:
        router.add_api_route(path, fail_last)
    own = read_settings(Settings, mongo_url="mongodb://x", nats_url="nats://x", internal_token=TOKEN)

    @asynccontextmanager
    async def nothing(_: Any) -> AsyncIterator[None]:
        yield

    return name, create_app(Service(name, Settings, nothing, routers=[router]), own)


Lines = Callable[[], list[dict[str, Any]]]


@contextmanager
def logs_read() -> Iterator[Lines]:
    """Answers the lines logged since it was last asked, as they are written in production."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def lines() -> list[dict[str, Any]]:
        text = written.getvalue()
        written.seek(0)
        written.truncate()
        return [json.loads(line) for line in text.splitlines()]

    with redirect_stderr(io.StringIO()) as written:
        logs.configure_logging("odd", "INFO")
        try:
            yield lines
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)


def counted(service: str, status: int) -> float:
    """The requests that a service answered with this status, whatever the route."""
    return sum(
        sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "callboard_requests_total"
        and (sample.labels["service"], sample.labels["status"]) == (service, str(status))
    )


def internal_error(request: str) -> dict[str, str]:
    return {"status": "error", "message": "internal error", "request_id": request}


def get(path: str, *headers: str) -> bytes:
    target = path.replace("{token}", "AAAA")
    lines = (f"GET {target} HTTP/1.1", "Host: x", f"{TOKEN_HEADER}: {TOKEN}", *headers, "", "")
    return "\r\n".join(lines).encode()


@contextmanager
def in_front_of(name: str, upstreams: Upstreams) -> Iterator[Proxy]:
    routes = [Route(method="GET", path=path, service=name, anyone=True) for path in (*PATHS, *LATE, *LAST)]
    yield Proxy(Routes(routes), [], upstreams, ())


@pytest.mark.parametrize("path", PATHS)
async def test_a_service_that_fails_answers_once_over_http(path: str) -> None:
    name, app = odd_service()
    async with served(app, HttpToolsProtocol) as url:
        with logs_read() as logged:
            (answer,) = await ask(url, get(path, "X-Request-Id: it", "Connection: close"))
            (line,) = logged()
    assert (answer.status, json.loads(answer.body)) == (500, internal_error("it"))
    assert (line["message"], line["request_id"]) == ("unexpected error", "it")
    assert "the reason" in line["exc_info"]
    assert counted(name, 500) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_service_that_fails_answers_once_in_one_process(path: str) -> None:
    name, app = odd_service()
    own = read_settings(GatewaySettings, mongo_url="mongodb://x", internal_token=TOKEN)
    async with Upstreams(own, {name: app}) as upstreams:
        with in_front_of(name, upstreams) as proxy:
            async with served(proxy) as url:
                with logs_read() as logged:
                    (answer,) = await ask(url, get(path, "Connection: close"))
                    error, access = logged()
    request = answer.headers["x-request-id"]
    assert (answer.status, json.loads(answer.body)) == (500, internal_error(request))
    assert (error["message"], error["request_id"]) == ("unexpected error", request)
    assert (access["route"], access["status"], access["request_id"]) == (path, 500, request)
    assert counted(name, 500) == 1


@pytest.mark.parametrize("path", LATE)
async def test_nothing_follows_the_beginning_of_an_answer_whose_rest_fails(path: str) -> None:
    name, app = odd_service()
    async with served(app, HttpToolsProtocol) as url:
        with logs_read() as logged:
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            writer.write(get(path))
            async with asyncio.timeout(60):
                received = await reader.read()
            writer.close()
            (line,) = logged()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b"d\r\nthe beginning\r\n"
    assert line["message"] == "unexpected error"
    assert counted(name, 200) == 1


@pytest.mark.parametrize("path", LATE)
@pytest.mark.parametrize("is_here", [True, False], ids=["one process", "over http"])
async def test_an_answer_whose_rest_fails_is_none_for_the_caller(path: str, is_here: bool) -> None:
    name, app = odd_service()
    async with served(app, HttpToolsProtocol) as replica:
        own = read_settings(
            GatewaySettings,
            mongo_url="mongodb://x",
            internal_token=TOKEN,
            upstreams={name: [replica]},
        )
        async with Upstreams(own, {name: app} if is_here else {}) as upstreams:
            with in_front_of(name, upstreams) as proxy:
                async with served(proxy) as url:
                    with logs_read() as logged:
                        (answer,) = await ask(url, get(path, "Connection: close"))
                        lines = logged()
        peer = Peer(name, replica, TOKEN, {name: app} if is_here else {}, own.outgoing)
        with pytest.raises(Unavailable):
            await peer.get(path.replace("{token}", "AAAA"), seconds=60)
        await peer.close()
    assert answer.status == 502
    assert [line["status"] for line in lines if line["message"] == "request"] == [502]
    assert {line["message"] for line in lines} == {"unexpected error", "request"}


@pytest.mark.parametrize("path", LAST)
async def test_what_fails_behind_the_answer_leaves_it_whole(path: str) -> None:
    name, app = odd_service()
    async with served(app, HttpToolsProtocol) as url:
        with logs_read() as logged:
            answers = await ask(url, get(path) + get(path, "Connection: close"))
            lines = logged()
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"all of it")] * 2
    assert [line["message"] for line in lines] == ["unexpected error"] * 2
    assert counted(name, 200) == 2


class Broken:
    """In place of what one of the gateway's own pages shows."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the reason")


@pytest.mark.parametrize(
    ("page", "part"),
    [("/status", "status"), ("/docs", "docs"), ("/openapi.json", "docs"), ("/readyz", "health")],
)
async def test_a_page_of_the_gateways_own_that_fails_answers_once(
    page: str, part: str, servers: Servers
) -> None:
    own = settings(GatewaySettings, servers)
    app = create(own, dict(echoes()))
    async with running(app, own), served(app) as url:
        (before,) = await ask(url, get(page, "Connection: close"))
        assert (before.status, "x-request-id" in before.headers) == (200, True)
        whole = getattr(app.state, part)
        setattr(app.state, part, Broken())
        with logs_read() as logged:
            count = counted("gateway", 500)
            (answer,) = await ask(url, get(page, "Connection: close"))
            error, access = logged()
            setattr(app.state, part, whole)
    request = answer.headers["x-request-id"]
    assert (answer.status, json.loads(answer.body)) == (500, internal_error(request))
    assert (error["message"], error["request_id"]) == ("unexpected error", request)
    assert (access["route"], access["method"], access["status"]) == (page, "GET", 500)
    assert access["request_id"] == request
    assert counted("gateway", 500) == count + 1


async def test_pages_are_logged_and_probes_are_not(servers: Servers) -> None:
    own = settings(GatewaySettings, servers)
    app = create(own, dict(echoes()))
    async with running(app, own), served(app) as url:
        with logs_read() as logged:
            for page in ("/healthz", "/readyz", "/status", "/docs", "/openapi.json"):
                await ask(url, get(page, "Connection: close"))
            lines = logged()
    assert [(line["route"], line["status"]) for line in lines if line["message"] == "request"] == [
        ("/status", 200),
        ("/docs", 200),
        ("/openapi.json", 200),
    ]
