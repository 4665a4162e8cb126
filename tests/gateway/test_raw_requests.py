"""Requests as they stand on the wire: a client library would tidy them up."""

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.gateway.builders import echoes, make_key, served_gateway
from tests.support import Servers


@pytest.fixture(scope="module")
async def url(servers: Servers) -> AsyncIterator[str]:
    """A gateway in front of echoes, behind a port."""
    async with served_gateway(servers, echoes()) as opened:
        yield opened


async def ask(url: str, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes, and what follows until the connection closes."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(10):
            writer.write(request)
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if "transfer-encoding" in headers:
                body = await reader.readuntil(b"\r\n0\r\n\r\n")
            return int(status.split()[1]), headers, body
    finally:
        writer.close()


@pytest.mark.parametrize(
    "path",
    [
        "/./profile",
        "/x/../profile",
        "/applications/../profile",
        "/applications/%2e%2e/profile",
        "//profile",
        "///profile",
        "/profile/",
        "/profile;x=1",
        "/profile%3Fid=1",
        "/%70rofile",
        "/profile%2f",
        "/applications%2fAAAA",
        "/applications/a%00",
        "/applications/a%5cb",
        "/applications/a%25",
        "/PROFILE",
        "/internal%2fmember",
        "/healthz/../profile",
        "/%68ealthz",
    ],
)
async def test_a_path_that_is_not_in_its_one_form_is_404(url: str, servers: Servers, path: str) -> None:
    key = await make_key(servers)
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n"
    status, _, body = await ask(url, request.encode())
    assert (status, body) == (404, b'{"status":"error","message":"not found"}')


async def test_a_path_beyond_ascii_is_refused(url: str) -> None:
    status, _, _ = await ask(url, "GET /pröfile HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert status in (400, 404)


async def test_a_query_beyond_ascii_reaches_the_service_encoded(url: str, servers: Servers) -> None:
    key = await make_key(servers)
    request = f"GET /profile?username=Zoë&x=%41+b HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n"
    status, _, body = await ask(url, request.encode())
    assert status == 400 or b'"query": "username=Zo%C3%AB&x=%41+b"' in body


async def test_the_host_header_decides_nothing(url: str, servers: Servers) -> None:
    key = await make_key(servers)
    for host in ("evil.example/profile?x=", "a?b", "x/../internal"):
        request = f"GET /profile?id=1 HTTP/1.1\r\nHost: {host}\r\nx-api-key: {key}\r\n\r\n"
        status, _, body = await ask(url, request.encode())
        assert status == 400 or b'"path": "/profile"' in body


async def test_an_endless_body_is_refused_and_its_connection_closed(url: str, servers: Servers) -> None:
    key = await make_key(servers)
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST /application/upload HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    sent = 0
    try:
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                while sent < 100_000_000:
                    writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    await writer.drain()
                    sent += 65536
    finally:
        writer.close()
    del reader


async def test_a_body_that_is_too_large_is_read_so_that_its_sender_reads_the_answer(
    url: str, servers: Servers
) -> None:
    key = await make_key(servers)
    body = b"x" * 1_000_000
    head = f"POST /application/upload HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    status, headers, _ = await ask(url, head.encode() + body)
    assert status == 413
    assert headers.get("connection") != "close"


async def test_two_lengths_are_refused(url: str, servers: Servers) -> None:
    key = await make_key(servers)
    head = f"POST /application/upload HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n"
    for lengths in (
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
    ):
        status, _, _ = await ask(url, (head + lengths + "\r\n0\r\n\r\nGET /internal").encode())
        assert status == 400


async def test_one_connection_serves_many_requests(url: str, servers: Servers) -> None:
    key = await make_key(servers)
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(10):
            for number in range(3):
                writer.write(
                    f"GET /profile?id={number} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n".encode()
                )
                await reader.readuntil(b"\r\n\r\n")
                chunk = await reader.readuntil(b"\r\n0\r\n\r\n")
                seen = json.loads(chunk[chunk.index(b"{") : chunk.rindex(b"}") + 1])
                assert seen["query"] == f"id={number}"
    finally:
        writer.close()
