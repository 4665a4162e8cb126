"""Replicas that are away, break off or are slow, over HTTP; and services that fail within the process."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from common.chassis.limits import ChassisLimits
from common.outgoing.limits import OutgoingLimits
from gateway.proxy import Proxy
from gateway.routes import Route, Routes
from gateway.settings import GatewaySettings
from gateway.upstreams import Upstreams
from tests.gateway.builders import Echo, served
from tests.outgoing.wire import PATIENT, limits
from tests.support import Servers, settings, wait_until

UNREACHABLE = "http://127.0.0.1:1"


def route(method: str = "POST", **given: Any) -> Route:
    return Route.model_validate({"method": method, "path": "/it", "service": "it", "anyone": True} | given)


@asynccontextmanager
async def in_front_of(
    servers: Servers,
    one: Route,
    urls: list[str] | None = None,
    limits: OutgoingLimits = PATIENT,
    **apps: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A proxy of one route, to these replicas or apps."""
    rooms = {"outgoing": limits, "chassis": ChassisLimits(drain_seconds=limits.idle_seconds + 1)}
    own = settings(GatewaySettings, servers, upstreams={"it": urls} if urls else {}, **rooms)
    async with Upstreams(own, apps) as upstreams:
        transport = httpx.ASGITransport(Proxy(Routes([one]), [], upstreams, ()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


@asynccontextmanager
async def answering(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that reads the head of a request and then does as it is told; and the heads that it read."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()


async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def break_off_halfway(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()


async def answer_and_leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    await writer.drain()


async def stay_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


def body_of(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"status", "message"} and body["status"] == "error"
    return response.status_code, body["message"]


async def test_replicas_take_turns(servers: Servers) -> None:
    one, other = Echo("one"), Echo("other")
    async with (
        served(one) as one_url,
        served(other) as other_url,
        in_front_of(servers, route(), [one_url, other_url]) as client,
    ):
        for _ in range(6):
            assert (await client.post("/it")).status_code == 200
    assert (len(one.seen), len(other.seen)) == (3, 3)


async def test_a_replica_that_says_it_stops_is_asked_no_more_while_there_is_another(servers: Servers) -> None:
    echo = Echo()
    async with (
        answering(answer_and_leave) as (leaving, heads),
        served(echo) as url,
        in_front_of(servers, route(), [leaving, url], limits(leaving_seconds=600.0)) as client,
    ):
        for _ in range(6):
            assert (await client.post("/it")).status_code == 200
    assert (len(heads), len(echo.seen)) == (1, 5)


async def test_a_replica_that_cannot_be_reached_is_passed_over_even_for_a_post(servers: Servers) -> None:
    echo = Echo()
    async with served(echo) as url, in_front_of(servers, route(), [UNREACHABLE, url, UNREACHABLE]) as client:
        for _ in range(6):
            assert (await client.post("/it", content=b"body")).json()["body"] == "body"
    assert len(echo.seen) == 6


async def test_a_service_that_cannot_be_reached_is_503_and_to_be_tried_again(servers: Servers) -> None:
    async with in_front_of(servers, route(), [UNREACHABLE, UNREACHABLE]) as client:
        response = await client.post("/it")
        assert body_of(response) == (503, "it is unavailable, try again")
        assert response.headers["Retry-After"] == "1"


async def test_a_replica_with_another_token_is_passed_over_and_never_told_of(servers: Servers) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with answering(refuse) as (other, _), served(Echo("one")) as one:
        async with in_front_of(servers, route(), [other, one]) as client:
            for _ in range(4):
                assert (await client.post("/it")).status_code == 200
        async with in_front_of(servers, route(), [other]) as client:
            assert (await client.post("/it")).status_code == 503


async def test_a_service_that_is_named_nowhere_is_looked_for_under_its_name(servers: Servers) -> None:
    nowhere = Route(method="GET", path="/it", service="no-such-service", anyone=True)
    async with in_front_of(servers, nowhere) as client:
        assert body_of(await client.get("/it")) == (503, "no-such-service is unavailable, try again")


@pytest.mark.parametrize("fault", [break_off, break_off_halfway])
async def test_a_post_that_may_have_arrived_is_not_sent_again(
    servers: Servers, fault: Callable[..., Awaitable[None]]
) -> None:
    echo = Echo()
    async with (
        answering(fault) as (broken, heads),
        served(echo) as url,
        in_front_of(servers, route(), [broken, url]) as client,
    ):
        response = await client.post("/it", headers={"Idempotency-Key": "k"})
    assert body_of(response) == (502, "it did not answer, try again")
    assert response.headers["Retry-After"] == "1"
    assert len(heads) == 1
    assert echo.seen == []


@pytest.mark.parametrize("fault", [break_off, break_off_halfway])
@pytest.mark.parametrize(
    ("one", "headers"),
    [(route("GET"), {}), (route(idempotent=True), {"Idempotency-Key": "k"})],
    ids=["GET", "with an idempotency key"],
)
async def test_what_may_be_repeated_is_sent_to_the_next_replica(
    servers: Servers, fault: Callable[..., Awaitable[None]], one: Route, headers: dict[str, str]
) -> None:
    echo = Echo()
    async with (
        answering(fault) as (broken, heads),
        served(echo) as url,
        in_front_of(servers, one, [broken, url]) as client,
    ):
        assert (await client.request(one.method, "/it", headers=headers)).status_code == 200
    assert heads
    assert len(echo.seen) == 1


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k", "Connection": "Idempotency-Key"}])
async def test_a_route_is_repeatable_only_with_a_key_that_the_service_sees(
    servers: Servers, headers: dict[str, str]
) -> None:
    async with (
        answering(break_off) as (broken, heads),
        in_front_of(servers, route(idempotent=True), [broken, broken]) as client,
    ):
        assert (await client.post("/it", headers=headers)).status_code == 502
    assert len(heads) == 1


async def test_a_replica_that_restarts_is_found_again(servers: Servers) -> None:
    echo = Echo()
    async with answering(break_off) as (url, heads), in_front_of(servers, route("GET"), [url]) as client:
        assert (await client.get("/it")).status_code == 502
        assert len(heads) >= 2
    async with served(echo) as url, in_front_of(servers, route("GET"), [url]) as client:
        assert (await client.get("/it")).status_code == 200


async def test_a_slow_service_is_504_after_the_routes_time(servers: Servers) -> None:
    for seconds in (0.2, 2, 20):  # the longer ones for a machine that is too slow to ask it in time
        async with (
            answering(stay_silent) as (silent, heads),
            in_front_of(servers, route("GET", seconds=seconds), [silent, silent]) as client,
        ):
            response = await client.get("/it")
            assert body_of(response) == (504, "it did not answer in time, try again")
            assert response.headers["Retry-After"] == "1"
        if heads:
            break
    assert len(heads) == 1


async def test_a_slow_service_in_the_same_process_is_504_too(servers: Servers) -> None:
    async def slow(_: Scope, __: Receive, ___: Send) -> None:
        await asyncio.get_running_loop().create_future()

    async with in_front_of(servers, route(seconds=0.05), it=slow) as client:
        assert body_of(await client.post("/it")) == (504, "it did not answer in time, try again")


async def test_a_service_that_raises_is_500_without_its_reason(
    servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: Scope, __: Receive, ___: Send) -> None:
        raise RuntimeError("the reason")

    async with in_front_of(servers, route(), it=broken) as client:
        response = await client.post("/it")
    assert response.status_code == 500
    request = response.headers["X-Request-Id"]
    assert response.json() == {"status": "error", "message": "internal error", "request_id": request}
    assert "the reason" in caplog.text


async def test_a_redirect_of_a_service_is_passed_on_not_followed(servers: Servers) -> None:
    async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 303 See Other\r\nLocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with answering(redirect) as (url, heads), in_front_of(servers, route("GET"), [url]) as client:
        response = await client.get("/it")
        assert (response.status_code, response.headers["Location"]) == (303, "/elsewhere")
        assert len(heads) == 1


async def test_a_cookie_of_a_service_is_not_given_to_the_next_caller(servers: Servers) -> None:
    async def set_cookie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: who=you\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        await writer.drain()

    async with (
        answering(set_cookie) as (url, heads),
        in_front_of(servers, route("GET"), [url.replace("127.0.0.1", "localhost")]) as client,
    ):
        for _ in range(2):
            client.cookies.clear()
            await client.get("/it")
        assert len(heads) == 2
        assert not [head for head in heads if b"cookie" in head.lower()]


async def test_a_packed_answer_is_passed_on_as_it_is(servers: Servers) -> None:
    async def packed(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: x-own\r\ncontent-length: 3\r\n\r\n\x00\x01\x02")
        await writer.drain()

    async with answering(packed) as (url, _), in_front_of(servers, route("GET"), [url]) as client:
        response = await client.get("/it")
        assert (response.headers["content-encoding"], response.content) == ("x-own", b"\0\1\2")


async def test_connections_are_used_again(servers: Servers) -> None:
    ports: set[int] = set()

    async def note_port(scope: Scope, _: Receive, send: Send) -> None:
        ports.add(scope["client"][1])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({}).encode()})

    async with served(note_port) as url, in_front_of(servers, route(), [url]) as client:
        for _ in range(5):
            await client.post("/it", content=b"x")
    assert len(ports) == 1


async def test_what_fails_again_and_again_is_probed_until_it_answers_and_meanwhile_asked_nothing(
    servers: Servers,
) -> None:
    is_back = False

    async def break_off_until_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (answer_and_leave if is_back else break_off)(reader, writer)

    def asked() -> int:
        return sum(head.startswith(b"POST ") for head in heads)

    async with (
        answering(break_off_until_back) as (url, heads),
        in_front_of(servers, route(), [url], limits(probe_every=0.02)) as client,
    ):
        for _ in range(PATIENT.max_failures):
            assert (await client.post("/it")).status_code == 502
        await wait_until(lambda: len(heads) >= PATIENT.max_failures + 3)
        for _ in range(20):
            assert body_of(await client.post("/it")) == (503, "it is unavailable, try again")
        assert asked() == PATIENT.max_failures
        is_back = True

        async def is_let_through() -> bool:
            return (await client.post("/it")).status_code == 200

        await wait_until(is_let_through)
        assert asked() == PATIENT.max_failures + 1


async def test_what_is_slow_again_and_again_is_asked_on(servers: Servers) -> None:
    async with (
        answering(stay_silent) as (url, _),
        in_front_of(servers, route("GET", seconds=0.05), [url]) as client,
    ):
        statuses = [(await client.get("/it")).status_code for _ in range(2 * PATIENT.max_failures)]
    assert statuses == [504] * 2 * PATIENT.max_failures


async def test_one_replica_that_fails_again_and_again_leaves_all_to_the_other(servers: Servers) -> None:
    echo = Echo()
    async with (
        answering(break_off) as (broken, heads),
        served(echo) as url,
        in_front_of(servers, route("GET"), [broken, url]) as client,
    ):
        for _ in range(40):
            assert (await client.get("/it")).status_code == 200
    assert len(echo.seen) == 40
    assert sum(head.startswith(b"GET /it") for head in heads) == PATIENT.max_failures


async def test_what_a_service_cannot_take_in_time_is_503_at_once(servers: Servers) -> None:
    stuck: list[asyncio.Future[None]] = []

    async def slow(_: Scope, __: Receive, ___: Send) -> None:
        stuck.append(asyncio.get_running_loop().create_future())
        await stuck[-1]

    async with in_front_of(servers, route(seconds=300), it=slow) as client:
        waiting = [asyncio.create_task(client.post("/it")) for _ in range(PATIENT.max_local)]
        await wait_until(lambda: len(stuck) == PATIENT.max_local)
        assert body_of(await client.post("/it")) == (503, "it is unavailable, try again")
        for future in stuck:
            future.set_exception(ConnectionError())
        assert {(await one).status_code for one in waiting} == {500}
