"""Clients that send too slowly, too much or no HTTP, that read nothing, or that are too many."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import ClassVar
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.connections import ClientConnection
from tests.gateway.builders import served
from tests.gateway.raw import answers_in, read_all, statuses
from tests.support import wait_until

LARGEST_HEAD = ClientConnection.most_head_bytes


class Impatient(ClientConnection):
    """Waits for a moment only."""

    slow_seconds = 0.2


class Watched(ClientConnection):
    """Looks at its client when the test says so, however slow the machine is."""

    slow_seconds = 3600.0
    latest: ClassVar["Watched"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        Watched.latest = self

    def look(self) -> None:
        if self._look_again and not self.transport.is_closing():
            self._look_again.cancel()
            self._look()


class Crowded(ClientConnection):
    """Has room for two."""

    most_connections = 2


async def hello(_: Scope, __: Receive, send: Send) -> None:
    """Answers in a word."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of our own."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(60):
            yield reader, writer
    finally:
        writer.close()


async def refused(reader: asyncio.StreamReader) -> tuple[int, object]:
    """Status and body of the answer after which the connection closes."""
    head, _, body = (await read_all(reader)).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    return int(head.split()[1]), json.loads(body)


async def test_what_is_no_http_is_400_in_our_own_words() -> None:
    async with served(hello) as url, connected(url) as (reader, writer):
        writer.write(b"\x16\x03\x01 not HTTP\r\n\r\n")
        assert await refused(reader) == (400, {"status": "error", "message": "invalid request"})


@pytest.mark.parametrize("piece", [1000, 1_000_000])
async def test_a_head_that_is_too_large_is_431_whether_it_ends_or_not(piece: int) -> None:
    async with served(hello) as url, connected(url) as (reader, writer):
        head = b"GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * LARGEST_HEAD + b"\r\n\r\n"
        writer.write(head[:piece])
        writer.write(head[piece:])
        assert await refused(reader) == (431, {"status": "error", "message": "headers too large"})


async def test_too_many_headers_are_431_whether_they_end_or_not() -> None:
    fine = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * (ClientConnection.most_headers - 1)
    async with served(hello) as url:
        async with connected(url) as (reader, writer):
            writer.write(fine + b"\r\n")
            await reader.readuntil(b"hello")
        for end in (b"a:\r\n\r\n", b"a:\r\na:\r\na:\r\n"):
            async with connected(url) as (reader, writer):
                writer.write(fine + end)
                assert await refused(reader) == (431, {"status": "error", "message": "headers too large"})


async def test_a_head_just_below_the_limit_passes_and_so_does_the_next_one() -> None:
    async with served(hello) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(3):
            response = await client.get("/", headers={"X-Large": "x" * (LARGEST_HEAD - 500)})
            assert response.text == "hello"


async def test_a_large_body_is_no_large_head() -> None:
    async def reads(_: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await hello(_, receive, send)

    async with served(reads) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(2):
            body = b"x" * 3 * ClientConnection.most_unread_bytes
            assert (await client.post("/", content=body)).text == "hello"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_come_in_time_is_408(sent: bytes) -> None:
    async with served(hello, Impatient) as url, connected(url) as (reader, writer):
        writer.write(sent)
        assert await refused(reader) == (
            408,
            {"status": "error", "message": "request did not arrive in time"},
        )


async def test_a_head_that_follows_an_answer_must_come_in_time_too() -> None:
    async with served(hello, Watched) as url, connected(url) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        await wait_until(lambda: not Watched.latest.is_idle)
        for _ in range(2):
            Watched.latest.look()
        assert (await refused(reader))[0] == 408


BODY_TO_COME = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
CHUNKS_TO_COME = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "once", "again_and_again"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", b"\r\n"),
        (BODY_TO_COME, b"", b""),
        (BODY_TO_COME, b"", b"x"),
        (CHUNKS_TO_COME, b"", b"1\r\nx\r\n"),
        (CHUNKS_TO_COME + b"0\r\n", b"", b"X: y\r\n"),
        (CHUNKS_TO_COME, b"1;", b"x"),
    ],
    ids=["blank lines", "no body", "slow body", "chunks", "trailers", "extension"],
)
async def test_after_an_answer_only_a_whole_request_keeps_a_connection_open(
    request_: bytes, once: bytes, again_and_again: bytes
) -> None:
    async with served(hello, Watched) as url, connected(url) as (reader, writer):
        writer.write(request_)
        received = await reader.readuntil(b"hello")
        writer.write(once)
        with suppress(ConnectionError):
            is_open = True
            while is_open:
                writer.write(again_and_again)
                await writer.drain()
                Watched.latest.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        more = await reader.read(65536)
                    received += more
                    is_open = more != b""
    assert statuses(answers_in(received)) in ([200], [200, 408])


@pytest.mark.parametrize(
    ("request_", "more"),
    [
        (BODY_TO_COME, b"x" * 100_000),
        (CHUNKS_TO_COME, b"%x\r\n%b\r\n" % (100_000, b"x" * 100_000)),
        (CHUNKS_TO_COME + b"0\r\n", b"X: y\r\n" * 10_000),
        (CHUNKS_TO_COME + b"0\r\nX: ", b"y" * 100_000),
        (CHUNKS_TO_COME + b"1;", b"x" * 100_000),
    ],
    ids=["body", "chunks", "trailers", "trailer", "extension"],
)
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "not read"])
async def test_what_nobody_reads_ends_the_connection_before_it_fills_the_memory(
    request_: bytes, more: bytes, *, is_read: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if is_read:
            seen = 0
            while (message := await receive()).get("more_body"):
                seen += len(message["body"])
                if seen > 1_000_000:
                    break
        await hello(scope, receive, send)

    tracemalloc.start()
    try:
        async with served(app) as url, connected(url) as (_, writer):
            writer.write(request_)
            sent = 0
            with pytest.raises(ConnectionError):
                while sent < 100_000_000:
                    writer.write(more)
                    await writer.drain()
                    sent += len(more)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert sent < 20_000_000  # with what lies in the buffers between


async def test_an_answer_that_takes_its_time_is_not_the_clients_fault() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            Watched.latest.look()
            await asyncio.sleep(0)
        await hello(scope, receive, send)

    async with served(slow, Watched) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert (await client.get("/")).text == "hello"


async def test_the_time_for_the_next_request_begins_with_the_answer() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        Watched.latest.look()
        await hello(scope, receive, send)

    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with served(slow, Watched) as url, connected(url) as (reader, writer):
        for _ in range(2):
            writer.write(request)
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
            Watched.latest.look()  # what was in flight at the look before has its time from now on


async def test_an_answer_that_is_read_slowly_is_read_to_its_end() -> None:
    size = 32_000_000

    async def large(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    async with served(large, Watched) as url, connected(url) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        unread, looks = size, 0
        while unsent := Watched.latest.transport.get_write_buffer_size():
            Watched.latest.look()
            looks += 1
            while Watched.latest.transport.get_write_buffer_size() == unsent:
                unread -= len(await reader.read(65536))
        await reader.readexactly(unread)
        assert looks > 2
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readexactly(15) == b"HTTP/1.1 200 OK"


async def test_a_client_that_does_not_read_its_answer_is_left() -> None:
    is_left, is_asked = asyncio.Event(), asyncio.Event()

    async def endless(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not is_left.is_set():
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})

    async def watched(_: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(endless(send))
        await receive()  # the request
        is_asked.set()
        await receive()  # that the client is gone
        is_left.set()
        await task

    def is_left_after_a_look() -> bool:
        Watched.latest.look()
        return is_left.is_set()

    async with served(watched, Watched) as url, connected(url) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await is_asked.wait()
        await wait_until(is_left_after_a_look)


async def test_a_connection_between_two_requests_outlives_every_look() -> None:
    async with served(hello, Watched) as url, connected(url) as (reader, writer):
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
            for _ in range(3):
                Watched.latest.look()


async def test_a_connection_that_stays_idle_is_closed_without_a_word() -> None:
    async with served(hello, idle_seconds=1) as url, connected(url) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
        assert await reader.read() == b""


async def test_a_body_that_comes_after_its_answer_leaves_an_idle_connection_that_is_closed_in_time() -> None:
    late = BODY_TO_COME.replace(b"1000000000", b"1")
    async with served(hello, idle_seconds=1) as url, connected(url) as (reader, writer):
        for _ in range(2):
            writer.write(late)
            await reader.readuntil(b"hello")
            writer.write(b"x")
        assert await reader.read() == b""


async def test_what_is_sent_between_two_requests_keeps_no_connection_open() -> None:
    async with served(hello, Watched) as url, connected(url) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"hello")
        writer.write(b"\r\n")
        await wait_until(lambda: not Watched.latest.is_idle)
        for _ in range(2):
            Watched.latest.look()
        assert (await refused(reader))[0] == 408


async def test_an_idle_connection_makes_room_for_one_more_client() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with served(hello, Crowded) as url, connected(url) as (idle, asks), connected(url) as (fresh, _):
        asks.write(request)
        await idle.readuntil(b"hello")
        async with connected(url) as (reader, writer):
            writer.write(request)
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
            assert await idle.read() == b""
        assert not fresh.at_eof()


async def test_one_client_too_many_is_503_until_another_goes() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with served(hello, Crowded) as url:
        async with connected(url) as (first, _), connected(url) as (second, writer):
            async with connected(url) as (third, _):
                assert await refused(third) == (
                    503,
                    {"status": "error", "message": "too many connections, try again"},
                )
            writer.write(request)
            await second.readuntil(b"hello")
            assert not first.at_eof()

        async def there_is_room() -> bool:
            async with connected(url) as (reader, writer):
                writer.write(request)
                return (await reader.read(12)).endswith(b"200")

        await wait_until(there_is_room)


async def test_a_wish_for_a_websocket_is_answered_as_the_request_that_it_is() -> None:
    async with served(hello) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        wish = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"}
        assert (await client.get("/", headers=wish)).text == "hello"
