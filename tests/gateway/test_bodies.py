"""How large a body may be, counted as it arrives and as it unpacks."""

import gzip
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.routes import load_routes
from tests.gateway.builders import make_key
from tests.support import Servers

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


async def test_a_gzip_body_counts_as_what_it_unpacks_to(
    client: httpx.AsyncClient, key: dict[str, str]
) -> None:
    headers = key | {"Content-Encoding": "GZIP"}
    for size, status in ((UPLOAD_LIMIT, 200), (UPLOAD_LIMIT + 1, 413), (50_000_000, 413)):
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        packed = b"".join(packer.compress(b"x" * 1_000_000) for _ in range(size // 1_000_000))
        packed += packer.compress(b"x" * (size % 1_000_000)) + packer.flush()
        response = await client.post("/application/upload", content=packed, headers=headers)
        assert response.status_code == status, size


async def test_a_broken_gzip_body_is_400(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    headers = key | {"Content-Encoding": "gzip"}
    whole = gzip.compress(b"x" * 100)
    for broken in (b"plain", whole[:-1], whole[:10], whole + b"x", whole[:-8] + b"\0" * 8):
        response = await client.post("/application/upload", content=broken, headers=headers)
        assert (response.status_code, response.text) == (
            400,
            '{"status":"error","message":"invalid query: body is not gzip"}',
        )


async def test_another_encoding_is_415(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    for encoding in ("br", "deflate", "gzip, gzip"):
        response = await client.post(
            "/application/upload", content=b"x", headers=key | {"Content-Encoding": encoding}
        )
        assert response.status_code == 415
        assert response.json() == {"status": "error", "message": "unsupported content encoding"}
