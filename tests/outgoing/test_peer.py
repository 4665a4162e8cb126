"""Calls between services, when a replica goes away in the middle of one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import pytest

from callboard.servers import free_port
from common.errors import Unavailable
from common.outgoing.peer import Peer
from tests.outgoing.wire import PATIENT, limits

YES = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"is":true}'


@asynccontextmanager
async def replica(
    *, answers: int, answer: bytes = YES, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers so many requests, and then breaks off; and the heads that it read."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                if len(heads) > answers:
                    break
                writer.write(answer)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, port)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()


async def test_a_call_that_loses_its_connection_is_made_again_at_another_replica() -> None:
    async with replica(answers=0) as (broken, tried), replica(answers=9) as (good, asked):
        peer = Peer("it", f"{broken},{good}", "token", {}, PATIENT)
        assert await peer.post("/internal/rank", {}, seconds=30, repeatable=True) == {"is": True}
        await peer.close()
    assert (len(tried), len(asked)) == (1, 1)


async def test_the_only_replica_is_asked_again_as_it_may_have_been_started_anew() -> None:
    async with replica(answers=1) as (url, heads):
        peer = Peer("it", url, "token", {}, PATIENT)
        assert await peer.get("/internal/member", seconds=30) == {"is": True}
        with pytest.raises(Unavailable):
            await peer.get("/internal/member", seconds=30)
        await peer.close()
    assert len(heads) == 3


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name stands for both of them."""

    async def look_up(_: str) -> Sequence[str]:
        return "127.0.0.1", "127.0.0.2"

    monkeypatch.setattr("common.outgoing.replicas.addresses", look_up)


@pytest.mark.usefixtures("two_addresses")
async def test_the_addresses_behind_a_name_take_turns_and_hear_the_name() -> None:
    port = free_port()
    async with (
        replica(answers=9, port=port) as (_, one),
        replica(answers=9, host="127.0.0.2", port=port) as (_, other),
    ):
        peer = Peer("it", f"http://it:{port}", "token", {}, PATIENT)
        for _ in range(6):
            assert await peer.get("/internal/member", seconds=30) == {"is": True}
        await peer.close()
    assert (len(one), len(other)) == (3, 3)
    assert all(b"host: it:%d\r\n" % port in head.lower() for head in one + other)


@pytest.mark.usefixtures("two_addresses")
async def test_an_address_that_cannot_be_reached_costs_no_call() -> None:
    port = free_port()
    async with replica(answers=9, host="127.0.0.2", port=port) as (_, heads):
        peer = Peer("it", f"http://it:{port}", "token", {}, PATIENT)
        for _ in range(4):
            assert await peer.post("/internal/rank", {}, seconds=30) == {"is": True}
        await peer.close()
    assert len(heads) == 4


@pytest.mark.usefixtures("two_addresses")
async def test_an_address_that_swallows_what_is_sent_to_it_leaves_time_for_another() -> None:
    with ExitStack() as stack:
        hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = hole.getsockname()[1]
        for _ in range(3):  # once nobody accepts more, the system drops them
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        async with replica(answers=9, host="127.0.0.2", port=port) as (_, heads):
            peer = Peer("it", f"http://it:{port}", "token", {}, limits(connect_seconds=3.0))
            for _ in range(2):
                assert await peer.post("/internal/rank", {}, seconds=30) == {"is": True}
            await peer.close()
    assert len(heads) == 2


async def test_a_name_that_cannot_be_looked_up_is_unavailable() -> None:
    peer = Peer("it", "http://no-such-host.invalid:8000", "token", {}, PATIENT)
    with pytest.raises(Unavailable):
        await peer.get("/internal/member", seconds=30)
    await peer.close()


async def test_a_replica_with_another_token_is_passed_over() -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}"
    async with replica(answers=9, answer=refusal) as (other, refused), replica(answers=9) as (good, _):
        peer = Peer("it", f"{other},{good}", "token", {}, PATIENT)
        for _ in range(4):
            assert await peer.post("/internal/rank", {}, seconds=30) == {"is": True}
        await peer.close()
        peer = Peer("it", other, "token", {}, PATIENT)
        with pytest.raises(Unavailable):
            await peer.get("/internal/member", seconds=30)
        await peer.close()
    assert len(refused) == 4


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 301 Moved Permanently\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
    ],
)
async def test_an_answer_that_is_none_of_the_service_is_unavailable(answer: bytes) -> None:
    async with replica(answers=1, answer=answer) as (url, _):
        peer = Peer("it", url, "token", {}, PATIENT)
        with pytest.raises(Unavailable):
            await peer.get("/internal/member", seconds=30)
        await peer.close()
