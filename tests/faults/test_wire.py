"""A wire that is cut loses what it says that it loses, and nothing passes it by."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from tests.faults.wire import Cut, Wire
from tests.support import wait_until


@dataclass
class Service:
    """Answers each line with the same line; `heard` holds the lines, and how many callers have hung up."""

    heard: list[bytes] = field(default_factory=list)
    hung_up: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
        except ConnectionError:
            pass
        self.hung_up += 1
        writer.close()


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Service, Wire]]:
    """A service, and the wire to it."""
    service = Service()
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0) as server:
        wire = Wire(server.sockets[0].getsockname()[1])
        await wire.open()
        try:
            yield service, wire
        finally:
            await wire.close()


@asynccontextmanager
async def caller(wire: Wire) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection through the wire."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def received(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends."""
    try:
        return await reader.read(-1)
    except ConnectionError:
        return b""


async def test_a_whole_wire_passes_and_counts_both_ways() -> None:
    async with wired() as (service, wire):
        async with caller(wire) as (reader, writer):
            writer.write(b"one\n")
            assert await reader.readline() == b"one\n"
        await wait_until(lambda: service.hung_up == 1)
        assert wire.seen == {"requests": 1, "answers": 1}


@pytest.mark.parametrize(("how", "heard"), [("deaf", [b"one\n", b"two\n"]), ("silent", [b"one\n"])])
async def test_what_passes_a_wire_while_it_is_cut_is_lost_for_good(how: Cut, heard: list[bytes]) -> None:
    async with wired() as (service, wire), caller(wire) as (reader, writer):
        writer.write(b"one\n")
        assert await reader.readline() == b"one\n"
        wire.cut(how)
        writer.write(b"two\n")
        await wait_until(lambda: wire.seen["requests lost"] + wire.seen["answers lost"] == 1)
        wire.heal()
        assert await received(reader) == b""
        assert service.heard == heard
        assert wire.seen["answers lost" if how == "deaf" else "requests lost"] == 1


async def test_a_new_connection_is_cut_as_those_before_it_were() -> None:
    async with wired() as (service, wire):
        wire.cut("deaf")
        async with caller(wire) as (reader, writer):
            writer.write(b"one\n")
            await wait_until(lambda: wire.seen["answers lost"] == 1)
            wire.heal()
            assert await received(reader) == b""
        assert service.heard == [b"one\n"]


async def test_a_refused_connection_is_counted_as_a_lost_request() -> None:
    async with wired() as (service, wire):
        wire.cut("refuse")
        async with caller(wire) as (reader, _):
            assert await received(reader) == b""
        assert (wire.seen, service.heard) == ({"requests lost": 1}, [])


async def test_a_cut_wire_does_not_tell_that_the_other_end_has_closed() -> None:
    async with wired() as (service, wire), caller(wire) as (reader, writer), caller(wire) as (other, second):
        writer.write(b"one\n")
        assert await reader.readline() == b"one\n"
        wire.cut("deaf")
        service.writers[0].close()
        second.write(b"two\n")
        await wait_until(lambda: wire.seen["answers lost"] == 1)  # by then, the wire has seen the close too
        assert not reader.at_eof()
        wire.heal()
        assert (await received(reader), await received(other)) == (b"", b"")


async def test_nothing_passes_before_the_service_is_known() -> None:
    async with wired() as (service, wire):
        wire.target_port = None
        async with caller(wire) as (reader, _):
            assert await received(reader) == b""
        assert (wire.seen, service.heard) == ({}, [])
