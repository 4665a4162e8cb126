"""Where a request ends: what could be read in two ways is refused, so that nothing can be smuggled in behind."""

import asyncio
import json

import pytest
from starlette.types import Receive, Scope, Send

from gateway.connections import ClientConnection
from tests.gateway.builders import echoes, make_key, served, served_gateway
from tests.gateway.raw import LAST, Gate, ask, statuses
from tests.support import Servers

INVALID_REQUEST = b'{"status":"error","message":"invalid request"}'
CHUNKED = "Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def names(headers: list[list[str]]) -> set[str]:
    return {name for name, _ in headers}


@pytest.mark.parametrize(
    "header",
    [
        f"Content-Length: 15\r\n{CHUNKED}",
        f"{CHUNKED}\r\nContent-Length: 15",
        f"Content-Length: 0\r\n{CHUNKED}",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        'Transfer-Encoding: "chunked"',
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chun\x0bked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\n\x00Transfer-Encoding: chunked",
        "Content-Length: +15",
        "Content-Length: -15",
        "Content-Length: 0xf",
        "Content-Length: 15.0",
        "Content-Length: 1 5",
        "Content-Length: 15, 15",
        "Content-Length: 15;",
        "Content-Length: \x0b15",
        "Content-Length: \uff11\uff15",
        "Content-Length:",
        "Content-Length: 15\r\nContent-Length: 15",
        "Content-Length: 15\r\nContent-Length: 16",
        "Content-Length : 15",
        "Content-Length: 18446744073709551631",
        "Content-Length: 15\r\n 16",
        "Content-Length: 15\nX: y",
        "Content-Length",
        ": 15",
        "X Y: z",
        "X(Y): z",
        "X\0: y",
        "X: y\0z",
        "X: y\x01z",
        "X: y\r\n folded",
        "X: y\r\n\tfolded",
        "X: y\r\r\nZ: z",
        "Xé: y",
    ],
)
async def test_a_head_that_can_be_read_in_two_ways_is_400_and_nothing_behind_it_is_read(
    gate: Gate, header: str
) -> None:
    for body in (HELLO, HELLO + gate.request("/profile"), b"x" * 15):
        (answer,) = await gate.ask(gate.upload(header, body=body) + LAST)
        assert (answer.status, answer.body) == (400, INVALID_REQUEST)
        assert answer.headers["connection"] == "close"
    assert gate.seen == []


async def test_chunks_from_before_http_1_1_are_400(gate: Gate) -> None:
    request = gate.upload(CHUNKED, body=HELLO).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert statuses(await gate.ask(request + LAST)) == [400]
    assert gate.seen == []


@pytest.mark.parametrize("end", ["\n", "\r", "\n\r", "\r\r\n"])
async def test_a_line_ends_with_cr_and_lf(gate: Gate, end: str) -> None:
    request = gate.request("/profile", "X: y").replace(b"\r\n", end.encode())
    assert statuses(await gate.ask(request + LAST)) == [400]
    assert gate.seen == []


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"6\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\t\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5g\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5;a\0\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"5\r\nhello\r\n0\r\nTransfer-Encoding : x\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
    ],
)
async def test_a_body_of_broken_chunks_reaches_no_service(gate: Gate, chunks: bytes) -> None:
    for parts in (
        [gate.upload(CHUNKED, body=chunks) + LAST],
        [gate.upload(CHUNKED, body=b""), chunks + LAST],
    ):
        if len(parts) == 2:
            parts[0] = parts[0].replace(b"Host", b"Expect: 100-continue\r\nHost")
        answers = await gate.ask(*parts)
        assert [answer.status for answer in answers if answer.status != 100] == [400]
        assert answers[-1].body == INVALID_REQUEST
    assert gate.seen == []


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Length: 5", b"hello"),
        ("Content-Length: 005", b"hello"),
        ("Content-Length: \t5 \t", b"hello"),
        ("CONTENT-LENGTH:5", b"hello"),
        (CHUNKED, HELLO),
        ("transfer-encoding: CHUNKED", HELLO),
        ("Transfer-Encoding:\tchunked ", HELLO),
        (CHUNKED, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        (CHUNKED, b"0005\r\nhello\r\n000\r\n\r\n"),
        (CHUNKED, b'5;name=value;other="x;y"\r\nhello\r\n0;last\r\n\r\n'),
        (CHUNKED, b"5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n"),
        ("Transfer_Encoding: chunked\r\nContent-Length: 5", b"hello"),
        ("X-Transfer-Encoding: chunked\r\nContent-Length: 5", b"hello"),
        ("Content_Length: 9\r\nContent-Length: 5", b"hello"),
    ],
)
async def test_a_body_that_can_be_read_in_one_way_is_read_so(gate: Gate, header: str, body: bytes) -> None:
    assert statuses(await gate.ask(gate.upload(header, body=body) + LAST)) == [200, 200]
    (seen,) = gate.seen
    assert (seen["body"], ["content-length", "5"] in seen["headers"]) == ("hello", True)
    assert not {"transfer-encoding", "transfer_encoding", "content_length"} & names(seen["headers"])


async def test_a_request_within_a_body_is_a_body(gate: Gate) -> None:
    inner = gate.request("/profile?id=smuggled")
    for header, body in (
        (f"Content-Length: {len(inner)}", inner),
        (CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)),
    ):
        assert statuses(await gate.ask(gate.upload(header, body=body) + LAST)) == [200, 200]
    assert [seen["body"].encode() for seen in gate.seen] == [inner, inner]


async def test_a_get_may_have_a_body_and_ends_where_that_ends(gate: Gate) -> None:
    answers = await gate.ask(gate.request("/profile", "Content-Length: 5") + b"hello" + LAST)
    assert statuses(answers) == [200, 200]


TRAILERS = (
    "x-callboard-key: somebody\r\nx-callboard-token: mine\r\nRoblox-Id: 1\r\nX-Request-Id: mine\r\n"
    "Idempotency-Key: mine\r\nContent-Type: x/y\r\nX-Other: x\r\n"
)


async def test_what_follows_a_body_is_no_header(gate: Gate, servers: Servers) -> None:
    body = f"5\r\nhello\r\n0\r\n{TRAILERS}\r\n".encode()
    for header in (CHUNKED, f"{CHUNKED}\r\nTrailer: Roblox-Id, X-Other"):
        assert statuses(await gate.ask(gate.upload(header, body=body) + LAST)) == [200, 200]
    for seen in gate.seen:
        assert names(seen["headers"]) <= {
            "content-length",
            "x-request-id",
            "x-callboard-key",
            "x-callboard-token",
        }
        assert ["x-callboard-token", servers.internal_token] in seen["headers"]
        assert not [value for _, value in seen["headers"] if value in ("somebody", "mine")]


async def test_a_key_or_an_address_that_follows_a_body_does_not_count(servers: Servers) -> None:
    key = await make_key(servers, networks=["203.0.113.0/24"])
    head = f"GET /profile HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n"
    async with served_gateway(servers, echoes(), trusted_proxies=["127.0.0.0/8"]) as url:
        for inside, behind, status in (
            (f"x-api-key: {key}\r\nX-Forwarded-For: 203.0.113.7\r\n", "", 200),
            (
                f"x-api-key: {key}\r\nX-Forwarded-For: 203.0.113.7\r\n",
                "X-Forwarded-For: 198.51.100.1\r\n",
                200,
            ),
            (
                f"x-api-key: {key}\r\nX-Forwarded-For: 198.51.100.1\r\n",
                "X-Forwarded-For: 203.0.113.7\r\n",
                403,
            ),
            ("X-Forwarded-For: 203.0.113.7\r\n", f"x-api-key: {key}\r\n", 401),
        ):
            request = f"{head}{inside}\r\n0\r\n{behind}\r\n".encode()
            assert statuses(await ask(url, request + LAST)) == [status, 200]


async def test_a_wish_for_another_protocol_is_ignored_and_ends_the_connection(gate: Gate) -> None:
    for headers in (
        ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x"),
        ("Upgrade: h2c", "Connection: keep-alive", "Connection: upgrade", "Content-Length: 0"),
    ):
        for parts in (
            [gate.request("/profile", *headers) + LAST],
            [gate.request("/profile", *headers), gate.request("/profile") + LAST],
        ):
            (answer,) = await gate.ask(*parts)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert len(gate.seen) == 6


async def test_a_wish_for_another_protocol_does_not_turn_a_body_into_a_request(gate: Gate) -> None:
    inner = gate.request("/profile")
    for length, body in (
        (f"Content-Length: {len(inner)}", inner),
        (CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)),
    ):
        head = gate.upload("Upgrade: h2c", "Connection: Upgrade", length, body=b"")
        for parts in ([head + body + LAST], [head, body + LAST]):
            (answer,) = await gate.ask(*parts)
            assert (answer.status, answer.body) == (
                400,
                b'{"status":"error","message":"invalid request: an upgrade with a body"}',
            )
    assert gate.seen == []


async def test_nothing_behind_the_last_request_is_run(gate: Gate) -> None:
    for first in (
        gate.request("/profile", "Connection: close"),
        gate.request("/profile", "Connection: keep-alive, close"),
        gate.request("/profile").replace(b"HTTP/1.1", b"HTTP/1.0"),
        gate.request("/profile", method="CONNECT"),
    ):
        answers = await gate.ask(first + gate.request("/profile") * 3)
        assert len(answers) == 1
        assert answers[0].headers["connection"] == "close"
    assert len(gate.seen) == 3


async def test_requests_sent_at_once_are_answered_one_by_one_and_in_their_order(gate: Gate) -> None:
    requests = [gate.request(f"/profile?id={number}") for number in range(10)]
    requests[3] = gate.upload("Content-Length: 5", body=b"hello")
    requests[5] = gate.request("/nowhere")
    requests[7] = gate.upload(CHUNKED, body=HELLO)
    together = b"".join(requests)
    for parts in ([together + LAST], [together[:1000], together[1000:] + LAST]):
        answers = await gate.ask(*parts)
        assert statuses(answers) == [200] * 5 + [404] + [200] * 5
        seen = [json.loads(answer.body) for answer in answers[:10] if answer.status == 200]
        assert [one["query"] or one["body"] for one in seen] == [
            *("id=0", "id=1", "id=2", "hello", "id=4"),
            *("id=6", "hello", "id=8", "id=9"),
        ]


async def test_a_later_request_waits_until_the_one_before_is_answered() -> None:
    running = 0
    most = 0

    async def slow(_: Scope, __: Receive, send: Send) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _turn in range(100):
            await asyncio.sleep(0)
        running -= 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with served(slow) as url:
        assert statuses(await ask(url, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5 + LAST)) == [200] * 6
    assert most == 1


async def test_too_many_requests_at_once_are_answered_up_to_the_limit(gate: Gate) -> None:
    most = 1 + ClientConnection.most_waiting
    answers = await gate.ask(gate.request("/profile") * 200)
    assert statuses(answers) == [200] * most
    assert len(gate.seen) == most


@pytest.mark.parametrize(
    "broken",
    [
        b"junk\r\n\r\n",
        b"GET /profile HTTP/1.1\r\n\r\n",
        b"GET /profile HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=["no request", "no host", "two hosts", "two lengths", "too large"],
)
async def test_an_error_is_not_taken_for_the_answer_to_the_request_before(gate: Gate, broken: bytes) -> None:
    (answer,) = await gate.ask(gate.request("/profile?id=1") + broken)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert len(gate.seen) == 1


async def test_a_body_that_breaks_once_its_request_is_answered_is_not_answered_again(gate: Gate) -> None:
    head = f"POST /application/upload HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n\r\n".encode()
    assert statuses(await gate.ask(head + b"5\r\n", b"hello\r\nbroken" + LAST)) == [401]
    assert gate.seen == []


async def test_a_broken_body_behind_another_request_is_not_its_answer(gate: Gate) -> None:
    answers = await gate.ask(gate.request("/profile") + gate.upload(CHUNKED, body=b"broken") + LAST)
    assert statuses(answers) in ([], [200])
    assert [seen["path"] for seen in gate.seen] == ["/profile"]
