"""The hop's client, against a server that says each byte when the test says so."""

import asyncio
import gc
import itertools
import shutil
import socket
import ssl
import struct
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

import gateway.client
from gateway.client import Client, Lost, NotConnected, Received
from gateway.errors import UpstreamLost
from gateway.settings import GatewaySettings
from gateway.upstreams import Outgoing, Upstreams
from tests.support import Servers, settings, wait_until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
SOON = 5.0


@pytest.fixture(autouse=True)
def stay_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is closed for its age, so that it must be closed for what the test says."""
    monkeypatch.setattr(gateway.client, "LONGEST_IDLE_SECONDS", 60.0)


class Wire:
    """The server's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def is_of(self, connection: gateway.client._Connection) -> bool:
        """Whether the client's end is this one."""
        return bool(
            connection._transport.get_extra_info("sockname") == self._writer.get_extra_info("peername")
        )

    async def request(self, body_bytes: int = 0) -> bytes:
        """The next request's head, and what is known to follow it."""
        async with asyncio.timeout(SOON):
            return await self._reader.readuntil(b"\r\n\r\n") + await self._reader.readexactly(body_bytes)

    async def say(self, *pieces: bytes) -> None:
        """Each piece reaches the client on its own."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)  # the client shares this event loop, and reads before the next piece

    def end(self) -> None:
        """Say no more."""
        self._writer.write_eof()

    def hang_up(self) -> None:
        """Close it in order."""
        self._writer.close()

    def break_off(self) -> None:
        """Reset it."""
        without_lingering = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, without_lingering
        )
        self._writer.transport.abort()

    async def is_left(self) -> None:
        """Return once the client has closed it."""
        async with asyncio.timeout(SOON):
            try:
                assert await self._reader.read() == b"", "the client said something"
            except ConnectionError:
                return


class Server:
    """A port, and the connections that come to it."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.port = 0
        self.wires = asyncio.Queue[Wire]()
        self.accepted = 0

    def client(self, host: str = "127.0.0.1") -> closing[Client]:
        """A client of this server, for `with`."""
        return closing(Client(f"{self.scheme}://{host}:{self.port}"))

    async def accept(self) -> Wire:
        """The next connection that comes, or came."""
        async with asyncio.timeout(SOON):
            return await self.wires.get()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self.wires.put(Wire(reader, writer))


@asynccontextmanager
async def listening(
    host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None, scheme: str = "http"
) -> AsyncIterator[Server]:
    server = Server("https" if tls else scheme)
    taken: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        await server.take(reader, writer)

    listener = await asyncio.start_server(take, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for writer in taken:
            writer.transport.abort()


def ask(
    client: Client, *, method: str = "GET", target: bytes = b"/it", seconds: float = SOON, **given: Any
) -> asyncio.Task[Received]:
    """A request under way."""
    headers: Sequence[tuple[bytes, bytes]] = given.get("headers", ())
    deadline = asyncio.get_running_loop().time() + seconds
    sending: Coroutine[Any, Any, Received] = client.send(
        method, target, headers, given.get("body", b""), deadline
    )
    return asyncio.create_task(sending)


@asynccontextmanager
async def asked(**how: Any) -> AsyncIterator[tuple[Client, Server, Wire, asyncio.Task[Received]]]:
    """A server, its client, and a request that has reached the server."""
    async with listening() as server:
        with server.client() as client:
            request = ask(client, **how)
            wire = await server.accept()
            await wire.request(len(how.get("body", b"")))
            yield client, server, wire, request


async def uses_again(client: Client, wire: Wire) -> None:
    """Fails unless the client's next request comes on this connection, and its answer is understood."""
    request = ask(client, target=b"/next")
    assert (await wire.request()).startswith(b"GET /next ")
    await wire.say(OK)
    assert await request == (200, [(b"content-length", b"2")], b"{}", False)


async def uses_another(client: Client, server: Server, wire: Wire) -> None:
    """Fails unless the client has left this connection and its next request comes on a new one."""
    await wire.is_left()
    request = ask(client)
    other = await server.accept()
    await other.request()
    await other.say(OK)
    assert (await request)[0] == 200


# What is sent


async def test_a_request_arrives_to_the_byte() -> None:
    async with listening() as server:
        with server.client() as client:
            headers = [(b"X-Name", b"caf\xe9; \t!"), (b"x-empty", b"")]
            request = ask(client, method="POST", target=b"/a?b=%20", headers=headers, body=b"\0\r\n\r\n\xff")
            wire = await server.accept()
            assert await wire.request(6) == (
                b"POST /a?b=%%20 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nX-Name: caf\xe9; \t!\r\nx-empty: \r\n"
                b"content-length: 6\r\n\r\n\0\r\n\r\n\xff" % server.port
            )
            await wire.say(OK)
            await request
            await uses_again(client, wire)


@pytest.mark.parametrize(("method", "has_length"), [("GET", False), ("POST", True), ("DELETE", True)])
async def test_only_a_method_that_may_have_a_body_says_that_it_has_none(
    method: str, has_length: bool
) -> None:
    async with listening() as server:
        with server.client() as client:
            request = ask(client, method=method)
            wire = await server.accept()
            assert (b"content-length: 0\r\n" in await wire.request()) is has_length
            await wire.say(OK)
            await request


@pytest.mark.parametrize("breaking", [b"\r", b"\n", b"\r\n"])
@pytest.mark.parametrize("where", ["name", "value", "target"])
async def test_a_line_break_is_not_sent(breaking: bytes, where: str) -> None:
    async with listening() as server:
        with server.client() as client:
            pieces = {"name": b"x", "value": b"y", "target": b"/it"}
            pieces[where] += breaking + b"z"
            with pytest.raises(ValueError, match="line break"):
                await ask(client, target=pieces["target"], headers=[(pieces["name"], pieces["value"])])
            assert server.accepted == 0


def is_full(client: Client) -> bool:
    """Whether the client may write no more for now."""
    return any(one._may_write for one in client._connections)


async def test_a_large_body_waits_for_a_server_that_reads_slowly() -> None:
    body = bytes(range(256)) * 2**16  # 16 MiB: more than the operating system takes
    async with listening() as server:
        with server.client() as client:
            request = ask(client, method="POST", body=body)
            wire = await server.accept()
            await wait_until(lambda: is_full(client))
            for _ in range(10):
                await asyncio.sleep(0)
            (connection,) = client._connections
            assert 0 < connection._transport.get_write_buffer_size() <= 3 * 2**16
            assert (await wire.request(len(body))).endswith(b"\r\n\r\n" + body)
            await wire.say(OK)
            assert (await request)[0] == 200
            await uses_again(client, wire)


async def test_an_answer_that_comes_before_all_is_asked_is_the_answer_and_the_connections_last() -> None:
    async with listening() as server:
        with server.client() as client:
            request = ask(client, method="POST", body=bytes(2**24))
            wire = await server.accept()
            await wire.request()
            await wire.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            assert (await request)[0] == 413
            following = ask(client)
            other = await server.accept()
            assert (await other.request()).startswith(b"GET ")
            await other.say(OK)
            await following


@pytest.mark.parametrize(
    ("how", "error"), [("cancelled", None), ("late", TimeoutError), ("lost", Lost), ("half closed", Lost)]
)
async def test_a_body_that_nobody_reads_is_given_up(
    how: str, error: type[Exception] | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as server:
        with server.client() as client:
            request = ask(client, method="POST", body=bytes(2**24), seconds=0.2 if how == "late" else SOON)
            wire = await server.accept()
            await wait_until(lambda: is_full(client))
            if how == "cancelled":
                request.cancel()
            elif how == "lost":
                wire.break_off()
            elif how == "half closed":
                wire.end()
            await asyncio.wait([request])
            assert request.cancelled() if error is None else isinstance(request.exception(), error)
            assert not any(one.is_open for one in client._connections)
    del request
    gc.collect()
    assert caplog.text == ""  # in particular, of no error that nobody took


# What is answered


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"{}"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\none\r\n0a;x=y\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
            b"one" + b"\r\n" * 5,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\nx-trailer: y\r\n\r\n", b"1"),
    ],
    ids=["with a length", "empty", "chunked", "with a trailer"],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_an_answer_is_read_however_it_is_cut(answer: bytes, body: bytes, size: int) -> None:
    async with asked() as (client, _, wire, request):
        await wire.say(*(answer[start : start + size] for start in range(0, len(answer), size)))
        status, headers, received, is_last = await request
        assert (status, received, is_last) == (200, body, False)
        assert [name for name, _ in headers] in ([b"content-length"], [b"transfer-encoding"])
        await uses_again(client, wire)


async def test_headers_come_as_they_are_with_their_names_in_lower_case() -> None:
    async with asked() as (_, _, wire, request):
        await wire.say(
            b"HTTP/1.1 418 Teapot\r\nX-One: caf\xe9 A\r\nx-one: b\r\nEmpty:\r\ncontent-length: 0\r\n\r\n"
        )
        expected = [(b"x-one", b"caf\xe9 A"), (b"x-one", b"b"), (b"empty", b""), (b"content-length", b"0")]
        assert await request == (418, expected, b"", False)


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n", b"one ", b"two")
        assert not request.done()
        wire.hang_up()
        assert await request == (200, [(b"content-type", b"text/plain")], b"one two", True)
        await uses_another(client, server, wire)


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_an_answer_that_breaks_off_is_lost(part: bytes, is_reset: bool) -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(part)
        if is_reset:
            wire.break_off()
        else:
            wire.hang_up()
        with pytest.raises(Lost):
            await request
        await uses_another(client, server, wire)


async def test_an_answer_without_a_length_is_lost_when_the_connection_is_reset() -> None:
    async with asked() as (_, _, wire, request):
        await wire.say(b"HTTP/1.1 200 OK\r\n\r\n", b"half")
        wire.break_off()
        with pytest.raises(Lost):
            await request


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ntwo\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nother",
    ],
)
async def test_an_answer_that_is_not_http_is_lost(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(answer)
        with pytest.raises(Lost):
            await request
        assert caplog.text == ""
        await uses_another(client, server, wire)


async def test_what_comes_before_the_answer_is_passed_over() -> None:
    async with asked() as (client, _, wire, request):
        early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
        await wire.say(b"HTTP/1.1 100 Continue\r\n\r\n", early + early + OK)
        assert await request == (200, [(b"content-length", b"2")], b"{}", False)
        await uses_again(client, wire)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_an_answer_of_these_statuses_has_no_body_whatever_it_says(status: bytes) -> None:
    async with asked() as (client, _, wire, request):
        await wire.say(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\n" % status)
        assert (await request)[2:] == (b"", False)
        await uses_again(client, wire)


@pytest.mark.parametrize("length", [b"content-length: 2", b"transfer-encoding: chunked", b"x: y"])
async def test_the_answer_to_head_has_no_body_whatever_it_says(length: bytes) -> None:
    async with asked(method="HEAD") as (client, server, wire, request):
        await wire.say(b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % length)
        status, headers, body, _ = await request
        assert (status, headers, body) == (200, [tuple(length.split(b": "))], b"")
        await uses_another(client, server, wire)


@pytest.mark.parametrize("cut", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000], ids=["many", "one long"])
async def test_headers_without_end_are_broken_off(cut: bytes) -> None:
    async with asked() as (_, _, wire, request):
        await wire.say(b"HTTP/1.1 200 OK\r\nx: ", *[cut] * 64)
        assert not request.done()
        await wire.say(*[cut] * 2)
        with pytest.raises(Lost):
            await request
        await wire.is_left()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"content-length: 99999999", b"x" * 2**16),
        (b"transfer-encoding: chunked", b"fffa\r\n" + b"x" * 0xFFFA + b"\r\n"),
        (b"x: y", b"x" * 2**16),
    ],
    ids=["with a length", "chunked", "until the end"],
)
async def test_a_body_without_end_is_broken_off(head: bytes, piece: bytes) -> None:
    async with asked() as (_, _, wire, request):
        await wire.say(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head, *[piece] * 127)
        assert not request.done()
        await wire.say(piece, piece)
        with pytest.raises(Lost):
            await request
        await wire.is_left()


async def test_what_one_answer_took_is_not_counted_for_the_next() -> None:
    async with asked() as (client, _, wire, request):
        for _ in range(3):
            await wire.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4194304\r\n\r\n", b"x" * 2**22)
            assert len((await request)[2]) == 2**22
            request = ask(client)
            await wire.request()


async def test_what_one_answer_said_is_not_believed_of_the_next() -> None:
    async with asked() as (client, _, wire, request):
        await wire.say(b"HTTP/1.1 204 No Content\r\n\r\n")
        await request
        request = ask(client)
        await wire.request()
        wire.hang_up()
        with pytest.raises(Lost):
            await request


# Connections between two requests


@pytest.mark.parametrize(
    ("answer", "is_last"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}", False),
    ],
    ids=["close", "1.0", "1.0 keep-alive"],
)
async def test_a_connection_ends_with_the_answer_that_says_so(answer: bytes, is_last: bool) -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(answer)
        assert (await request)[2:] == (b"{}", is_last)
        await (uses_another(client, server, wire) if is_last else uses_again(client, wire))


@pytest.mark.parametrize(
    ("more", "at_once"),
    [*itertools.product((OK, b"HTTP/1.1 2", b"H", b"{"), (True, False)), (b"\r\n", False)],
)
async def test_a_connection_on_which_more_comes_than_was_asked_for_is_left(
    more: bytes, at_once: bool
) -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(OK + more if at_once else OK)
        assert (await request)[2] == b"{}"
        if not at_once:
            await wire.say(more)
        await uses_another(client, server, wire)


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(OK)
        await request
        wire.hang_up()
        await uses_another(client, server, wire)


async def test_the_connection_used_last_is_used_next() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(3)]
            wires = [await server.accept() for _ in requests]
            for number in (0, 2, 1):
                await wires[number].request()
                await wires[number].say(OK)
                await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(requests)
            await uses_again(client, wires[1])
            await uses_again(client, wires[1])


async def test_connections_that_are_not_needed_are_closed_and_others_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway.client, "LONGEST_IDLE_SECONDS", 0.3)
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(2)]
            wires = [await server.accept() for _ in requests]
            for wire in wires:
                await wire.request()
                await wire.say(OK)
            await asyncio.wait(requests)
            left = asyncio.create_task(wires[0].is_left())
            while not left.done():
                await uses_again(client, wires[1])
            await uses_again(client, wires[1])
            await wires[1].is_left()
            assert server.accepted == 2


async def test_a_connection_that_grew_too_old_while_nothing_ran_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asked() as (client, server, wire, request):
        monkeypatch.setattr(gateway.client, "LONGEST_IDLE_SECONDS", 0.0)
        await wire.say(OK)
        await request
        following = ask(client)
        other = await server.accept()
        await other.request()
        await other.say(OK)
        await following
        await wire.is_left()


async def test_connections_that_were_closed_are_forgotten() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(2)]
            wires = [await server.accept() for _ in requests]
            for wire in wires:
                await wire.request()
                await wire.say(OK)
            await asyncio.wait(requests)
            for wire in wires:
                wire.hang_up()
            await wait_until(lambda: not client._connections and not client._idle)


# Lost while idle, and found out too late


async def test_a_lost_connection_takes_the_idle_ones_along() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(3)]
            wires = [await server.accept() for _ in requests]
            for wire in wires:
                await wire.request()
                await wire.say(OK)
            await asyncio.wait(requests)
            request = ask(client)
            await wires[2].request()
            wires[2].break_off()
            with pytest.raises(Lost):
                await request
            await wires[0].is_left()
            await wires[1].is_left()


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_request_on_stale_connections_is_sent_again_only_if_it_may_be(
    servers: Servers, repeatable: bool
) -> None:
    async with listening() as server:
        url = f"http://127.0.0.1:{server.port}"
        async with Upstreams(settings(GatewaySettings, servers, upstreams={"it": [url]}), {}) as upstreams:

            def send() -> asyncio.Task[Any]:
                return asyncio.create_task(
                    upstreams.send("it", Outgoing("POST", "/it", seconds=SOON, repeatable=repeatable))
                )

            requests = [send() for _ in range(3)]
            wires = [await server.accept() for _ in requests]
            for wire in wires:
                await wire.request()
                await wire.say(OK)
            await asyncio.wait(requests)
            request = send()
            await wires[2].request()
            for wire in wires:
                wire.break_off()
            if repeatable:
                fresh = await server.accept()
                await fresh.request()
                await fresh.say(OK)
                assert (await request).status == 200
            else:
                with pytest.raises(UpstreamLost):
                    await request
                assert server.accepted == 3


async def test_the_deadline_of_one_request_is_not_that_of_the_next() -> None:
    async with asked(seconds=0.2) as (client, _, wire, request):
        await wire.say(OK)
        await request
        request = ask(client)
        await wire.request()
        other = ask(client, seconds=0.2)  # until after the deadline of the first
        with pytest.raises(TimeoutError):
            await other
        await wire.say(OK)
        assert (await request)[0] == 200


# Waiting for a connection


@pytest.fixture
def two_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of two connections."""
    monkeypatch.setattr(gateway.client, "MOST_CONNECTIONS", 2)


@pytest.mark.usefixtures("two_at_most")
async def test_beyond_the_most_connections_requests_wait_and_come_in_order() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client, target=b"/%d" % number) for number in range(6)]
            wires = [await server.accept(), await server.accept()]
            for turn in range(3):
                for number, wire in enumerate(wires):
                    assert (await wire.request()).startswith(b"GET /%d " % (turn * 2 + number))
                for wire in wires:
                    await wire.say(OK)
            await asyncio.gather(*requests)
            assert server.accepted == 2


@pytest.mark.usefixtures("two_at_most")
@pytest.mark.parametrize("is_its_turn", [False, True], ids=["waiting", "at its turn"])
async def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing_behind(is_its_turn: bool) -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(4)]
            wires = [await server.accept(), await server.accept()]
            for wire in wires:
                await wire.request()
            if is_its_turn:  # it is given the place of the first, and does not know yet
                (connection,) = [one for one in client._connections if wires[0].is_of(one)]
                connection.data_received(OK)
                asyncio.get_running_loop().call_soon(requests[2].cancel)
            else:
                requests[2].cancel()
                await wires[0].say(OK)
            assert (await wires[0].request()).startswith(b"GET /it ")  # of the fourth
            await wires[0].say(OK)
            await wires[1].say(OK)
            done = await asyncio.gather(*requests, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in done] == [False, False, True, False]
            following = [ask(client) for _ in range(2)]
            for wire in wires:
                await wire.request()
                await wire.say(OK)
            await asyncio.gather(*following)
            assert server.accepted == 2


@pytest.mark.usefixtures("two_at_most")
@pytest.mark.parametrize("how", ["cancelled", "late", "lost"])
async def test_a_request_that_fails_makes_room_for_the_next(how: str) -> None:
    async with listening() as server:
        with server.client() as client:
            failing = [ask(client, seconds=0.2 if how == "late" else SOON) for _ in range(2)]
            wires = [await server.accept() for _ in failing]
            waiting = ask(client, target=b"/next")
            for request, wire in zip(failing, wires, strict=True):
                await wire.request()
                if how == "cancelled":
                    request.cancel()
                elif how == "lost":
                    wire.break_off()
            await asyncio.wait(failing)
            other = await server.accept()
            assert (await other.request()).startswith(b"GET /next ")
            await other.say(OK)
            await waiting


@pytest.mark.usefixtures("two_at_most")
async def test_the_wait_counts_towards_the_deadline() -> None:
    async with listening() as server:
        with server.client() as client:
            held = [ask(client) for _ in range(2)]
            for _ in held:
                await (await server.accept()).request()
            with pytest.raises(TimeoutError):
                await ask(client, seconds=0.1)
            assert not any(request.done() for request in held)
    await asyncio.wait(held)
    assert all(isinstance(request.exception(), Lost) for request in held)


# Giving up


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", OK[:-1]])
@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_a_connection_is_left_when_its_request_is_given_up(part: bytes, how: str) -> None:
    async with asked(seconds=0.2 if how == "late" else SOON) as (client, server, wire, request):
        await wire.say(part)
        if how == "cancelled":
            request.cancel()
        with pytest.raises(asyncio.CancelledError if how == "cancelled" else TimeoutError):
            await request
        await uses_another(client, server, wire)


async def test_an_answer_that_meets_its_cancellation_does_not_harm_the_next_request() -> None:
    async with asked() as (client, server, wire, request):
        (connection,) = client._connections
        connection.data_received(OK)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await uses_another(client, server, wire)


async def test_an_answer_that_comes_after_its_cancellation_is_dropped() -> None:
    async with asked() as (client, _, wire, request):
        await wire.say(b"HTTP/1.1 200 OK\r\n\r\nall")
        (connection,) = client._connections
        request.cancel()
        connection.eof_received()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_a_server_that_refuses_connections_is_not_connected() -> None:
    async with listening() as server:
        pass
    with server.client() as client, pytest.raises(NotConnected):
        await ask(client)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64])
async def test_a_name_that_is_none_is_not_connected(host: str) -> None:
    with closing(Client(f"http://{host}:8000")) as client, pytest.raises(NotConnected):
        await ask(client)


@pytest.mark.parametrize(("limit", "error"), [(0.1, NotConnected), (SOON, TimeoutError)])
async def test_connecting_takes_its_time_and_no_longer_than_the_request(
    monkeypatch: pytest.MonkeyPatch, limit: float, error: type[Exception]
) -> None:
    monkeypatch.setattr(gateway.client, "CONNECT_SECONDS", limit)
    async with listening(scheme="https") as server:  # but it answers no handshake
        with server.client() as client, pytest.raises(error):
            await ask(client, seconds=SOON if error is NotConnected else 0.1)


@pytest.mark.parametrize("how", ["closed", "spoken on", "no longer wanted"])
async def test_a_connection_that_ends_before_it_is_used_was_not_connected(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with listening() as server:
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def connect_and_meet_the_end(*given: Any, **named: Any) -> Any:
            transport, connection = await connect(*given, **named)
            wire = await server.accept()
            if how == "no longer wanted":
                client.close()
                return transport, connection
            if how == "closed":
                wire.hang_up()
            else:
                await wire.say(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
            await wait_until(lambda: not connection.is_open)
            return transport, connection

        monkeypatch.setattr(loop, "create_connection", connect_and_meet_the_end)
        with server.client() as client, pytest.raises(NotConnected):
            await ask(client)


async def test_closing_the_client_closes_its_connections_for_good() -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(OK)
        await request
        client.close()
        await wire.is_left()
        with pytest.raises(NotConnected):
            await ask(client)
        await (await server.accept()).is_left()


async def test_closing_the_client_gives_up_what_is_under_way() -> None:
    async with asked() as (client, _, wire, request):
        client.close()
        with pytest.raises(Lost):
            await request
        await wire.is_left()


# Addresses


async def test_a_host_is_found_by_its_name() -> None:
    async with listening() as server:
        with server.client("localhost") as client:
            request = ask(client)
            wire = await server.accept()
            assert b"\r\nhost: localhost:%d\r\n" % server.port in await wire.request()
            await wire.say(OK)
            await request


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
async def test_an_address_may_be_of_ipv6() -> None:
    async with listening("::1") as server:
        with server.client("[::1]") as client:
            request = ask(client)
            wire = await server.accept()
            assert b"\r\nhost: [::1]:%d\r\n" % server.port in await wire.request()
            await wire.say(OK)
            await request


async def certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    making = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-keyout", key, "-out", cert),
        stderr=DEVNULL,
    )
    assert await making.wait() == 0
    return cert, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_https_reaches_a_server_whose_certificate_is_trusted_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = await certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    async with listening("127.0.0.1", tls=tls) as server:
        with server.client("localhost") as client, pytest.raises(NotConnected):
            await ask(client)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        with server.client() as client, pytest.raises(NotConnected):  # the certificate is of a name
            await ask(client)
        with server.client("localhost") as client:
            request = ask(client, method="POST", body=bytes(2**22))
            wire = await server.accept()
            await wire.request(2**22)
            await wire.say(OK)
            assert (await request)[2] == b"{}"
            await uses_again(client, wire)
            request = ask(client)
            await wire.request()
            await wire.say(b"HTTP/1.1 200 OK\r\n\r\nall")
            wire.hang_up()
            assert (await request)[2] == b"all"
            await uses_another(client, server, wire)
