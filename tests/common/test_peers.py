"""Calls between services, when a replica goes away in the middle of one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.errors import Unavailable
from common.peers import Peer

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n"


@asynccontextmanager
async def replica(*, answers: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers so many requests, and then breaks off; and the heads that it read."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                if len(heads) > answers:
                    break
                writer.write(ANSWER + b'{"is":true}')
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()


async def test_a_call_that_loses_its_connection_is_made_again_at_another_replica() -> None:
    async with replica(answers=0) as (broken, tried), replica(answers=9) as (good, asked):
        peer = Peer("it", f"{broken},{good}", "token", {})
        assert await peer.post("/internal/rank", {}) == {"is": True}
        await peer.close()
    assert (len(tried), len(asked)) == (1, 1)


async def test_the_only_replica_is_asked_again_as_it_may_have_been_started_anew() -> None:
    async with replica(answers=1) as (url, heads):
        peer = Peer("it", url, "token", {})
        assert await peer.get("/internal/member") == {"is": True}
        with pytest.raises(Unavailable):
            await peer.get("/internal/member")
        await peer.close()
    assert len(heads) == 3
