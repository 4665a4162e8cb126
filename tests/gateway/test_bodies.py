"""How large a body may be, counted as it arrives and as it unpacks."""

import asyncio
import gc
import gzip
import json
import logging
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from common import metrics
from gateway import incoming
from gateway.routes import load_routes
from tests.gateway.builders import make_key
from tests.gateway.raw import LAST, Gate, read_all, statuses
from tests.support import Servers, wait_until

TOO_LARGE = '{"status":"error","message":"body too large"}'
UPLOAD_LIMIT = 192 * 1024


@pytest.fixture(scope="module")
async def key(servers: Servers) -> dict[str, str]:
    """A key, as a header."""
    return {"x-api-key": await make_key(servers)}


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


def test_an_upload_may_have_192_kib() -> None:
    (upload,) = (route for route in load_routes().all if route.path == "/application/upload")
    assert upload.max_body_bytes == UPLOAD_LIMIT


async def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    client: httpx.AsyncClient, key: dict[str, str]
) -> None:
    for body, status in ((b"x" * UPLOAD_LIMIT, 200), (b"x" * (UPLOAD_LIMIT + 1), 413)):
        for content in (body, in_parts(body)):
            response = await client.post("/application/upload", content=content, headers=key)
            assert response.status_code == status
            if status == 413:
                assert response.text == TOO_LARGE


async def test_other_routes_take_less(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    response = await client.post("/application/approve", content=b"x" * 16_385, headers=key)
    assert (response.status_code, response.text) == (413, TOO_LARGE)


def bomb(size: int) -> bytes:
    """So many bytes, packed a thousand to one."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(b"x" * 1_000_000) for _ in range(size // 1_000_000))
    return packed + packer.compress(b"x" * (size % 1_000_000)) + packer.flush()


async def test_a_gzip_body_counts_as_what_it_unpacks_to(
    client: httpx.AsyncClient, key: dict[str, str]
) -> None:
    headers = key | {"Content-Encoding": "GZIP"}
    for size, status in ((UPLOAD_LIMIT, 200), (UPLOAD_LIMIT + 1, 413), (50_000_000, 413)):
        response = await client.post("/application/upload", content=bomb(size), headers=headers)
        assert response.status_code == status, size


async def test_a_gzip_bomb_does_not_fill_the_memory(gate: Gate) -> None:
    packed = bomb(190_000_000)
    assert UPLOAD_LIMIT * 0.9 < len(packed) < UPLOAD_LIMIT
    within = gzip.compress(packed)
    request = gate.upload("Content-Encoding: gzip", f"Content-Length: {len(packed)}", body=packed)
    before = psutil.Process().memory_info().rss
    tracemalloc.start()
    try:
        answers = await asyncio.gather(*(gate.ask(request + LAST) for _ in range(5)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [statuses(one) for one in answers] == [[413, 200]] * 5
    assert peak < 5 * 2_000_000  # the packed bytes on their way, here and there
    assert psutil.Process().memory_info().rss - before < 30_000_000
    assert gate.seen == []
    request = gate.upload("Content-Encoding: gzip", f"Content-Length: {len(within)}", body=within)
    assert statuses(await gate.ask(request + LAST)) == [200, 200]
    assert gate.seen[0]["body"].encode("latin-1") == packed  # one layer is taken off, and no more


async def test_a_broken_gzip_body_is_400(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    headers = key | {"Content-Encoding": "gzip"}
    whole = gzip.compress(b"x" * 100)
    for broken in (
        b"",
        b"plain",
        whole[:-1],
        whole[:10],
        whole + b"x",
        whole + b"\0",
        whole + whole,
        whole + bomb(1_000_000),
        whole[:-8] + b"\0" * 8,
        zlib.compress(b"x" * 100),
    ):
        response = await client.post("/application/upload", content=broken, headers=headers)
        assert (response.status_code, response.text) == (
            400,
            '{"status":"error","message":"invalid query: body is not gzip"}',
        )


async def test_another_encoding_is_415(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    for encoding in ("br", "deflate", "gzip, gzip", "identity, gzip", "x-gzip", "", "gzip;q=1"):
        response = await client.post(
            "/application/upload", content=b"x", headers=key | {"Content-Encoding": encoding}
        )
        assert response.status_code == 415
        assert response.json() == {"status": "error", "message": "unsupported content encoding"}


async def test_two_encodings_in_two_headers_are_415(gate: Gate) -> None:
    packed = gzip.compress(b"x")
    request = gate.upload(
        "Content-Encoding: gzip",
        "Content-Encoding: gzip",
        f"Content-Length: {len(packed)}",
        body=packed,
    )
    assert statuses(await gate.ask(request + LAST)) == [415, 200]


async def test_an_endless_body_is_refused_and_its_connection_closed(gate: Gate) -> None:
    for head, piece in (
        (gate.upload("Transfer-Encoding: chunked", body=b""), b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        (gate.upload("Content-Length: 9999999999999", body=b""), b"x" * 65536),
        (gate.request("/profile", "Content-Length: 9999999999999"), b"x" * 65536),
    ):
        answers = await gate.ask(head + piece * 200)
        assert statuses(answers) in ([413], [])  # a client that only sends may not get to read it
    assert gate.seen == []


async def test_a_body_that_is_too_large_is_read_so_that_its_sender_reads_the_answer(gate: Gate) -> None:
    body = b"x" * 1_000_000
    assert statuses(await gate.ask(gate.upload(f"Content-Length: {len(body)}", body=body) + LAST)) == [
        413,
        200,
    ]


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["none comes", "a byte at a time comes"])
async def test_a_body_that_does_not_come_in_time_is_408(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    monkeypatch.setattr(incoming, "BODY_SECONDS", 0.3)
    parts = urlsplit(gate.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    began = time.monotonic()
    try:
        writer.write(gate.upload("Content-Length: 100000", body=b"x"))
        answer = asyncio.create_task(read_all(reader))
        while not answer.done():
            writer.write(piece)
            await asyncio.wait((answer,), timeout=0.05)
            assert time.monotonic() - began < 60
    finally:
        writer.close()
    head, _, body = answer.result().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close" in head
    assert json.loads(body) == {"status": "error", "message": "body did not arrive in time"}
    assert gate.seen == []


def answered(status: int) -> float:
    """How many uploads were answered so, by the metrics."""
    labels = {"route": "/application/upload", "status": str(status)}
    (counted,) = metrics.REQUESTS.collect()
    return sum(
        sample.value
        for sample in counted.samples
        if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
    )


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_client_that_leaves_within_its_body_has_asked_for_nothing(
    gate: Gate, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    gc.collect()  # what others left may be complained of, but not here
    caplog.clear()
    parts = urlsplit(gate.url)
    refused, failed = answered(400), answered(500)
    for header, body in (
        ("Content-Length: 1000", b"x" * 999),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
    ):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(gate.upload(header, body=body))
        await writer.drain()
        if end == "reset":
            writer.transport.abort()
        writer.close()
    await wait_until(lambda: answered(400) == refused + 2)
    assert answered(500) == failed
    assert gate.seen == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
