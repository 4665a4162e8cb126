"""What the client sends, and what it makes of the answers."""

import asyncio
import gc
from contextlib import suppress

import pytest

from common.outgoing.client import Client, Lost
from tests.outgoing.wire import OK, SOON, ask, asked, let_pass, listening, uses_again, uses_another
from tests.support import wait_until

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
    return any(one._may_write and not one._may_write.done() for one in client._connections)


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
            assert connection._transport.get_write_buffer_size() <= 3 * 2**16
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


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the event loop and the client logged; the gateways of other tests may log what they like."""
    return [
        record.message for record in caplog.records if record.name in ("asyncio", "common.outgoing.client")
    ]


@pytest.mark.parametrize(
    ("how", "error"), [("cancelled", None), ("late", TimeoutError), ("lost", Lost), ("half closed", Lost)]
)
async def test_a_body_that_nobody_reads_is_given_up(
    how: str, error: type[Exception] | None, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # what others left may be complained of, but not here
    caplog.clear()
    async with listening() as server:
        with server.client() as client:
            request = ask(client, method="POST", body=bytes(2**24))
            wire = await server.accept()
            await wait_until(lambda: is_full(client))
            if how == "cancelled":
                request.cancel()
            elif how == "late":
                let_pass(client, SOON)
            elif how == "lost":
                wire.break_off()
            elif how == "half closed":
                wire.end()
            await asyncio.wait([request])
            assert request.cancelled() if error is None else isinstance(request.exception(), error)
            assert not any(one.is_open for one in client._connections)
    del request
    gc.collect()
    assert not complaints(caplog)  # of an error that nobody took, for instance


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
    gc.collect()
    caplog.clear()
    async with asked() as (client, server, wire, request):
        await wire.say(answer)
        with pytest.raises(Lost):
            await request
        assert not complaints(caplog)
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
        with suppress(ConnectionError):  # as below
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
        with suppress(ConnectionError):  # of the last, once the client has left
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
