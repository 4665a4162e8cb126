"""The other end of the client: a server that says each byte when the test says so."""

import asyncio
import math
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

from common.outgoing.client import Client, Received, _Connection
from common.outgoing.limits import OutgoingLimits
from common.outgoing.remote import RemoteService
from tests.support import wait_until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
SOON = 60.0
LONG = 600.0

PATIENT = OutgoingLimits.with_patience(60).model_copy(update={"idle_seconds": LONG})
"""A machine that pauses reaches none of them, and no connection is closed for its age."""


def limits(**given: float) -> OutgoingLimits:
    """Those of a test that reaches these."""
    return PATIENT.model_copy(update=given)


class Wire:
    """The server's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def is_of(self, connection: _Connection) -> bool:
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

    def client(
        self,
        host: str = "127.0.0.1",
        limits: OutgoingLimits = PATIENT,
        on_silence: Callable[[], None] | None = None,
    ) -> closing[Client]:
        """A client of this server, for `with`."""
        tls = ssl.create_default_context() if self.scheme == "https" else None
        url = f"{self.scheme}://{host}:{self.port}"
        return closing(Client(url, limits=limits, tls=tls, on_silence=on_silence))

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


@asynccontextmanager
async def at(*urls: str, limits: OutgoingLimits = PATIENT) -> AsyncIterator[RemoteService]:
    """The service "it" at these URLs."""
    it = RemoteService("it", urls, "token", limits)
    try:
        yield it
    finally:
        await it.close()


def ask(
    client: Client, *, method: str = "GET", target: bytes = b"/it", seconds: float = SOON, **given: Any
) -> asyncio.Task[Received]:
    """A request under way."""
    headers: Sequence[tuple[bytes, bytes]] = given.get("headers", ())
    deadline = asyncio.get_running_loop().time() + seconds
    sending: Coroutine[Any, Any, Received] = client.send(
        method,
        target,
        headers,
        given.get("body", b""),
        deadline,
        given.get("share", math.inf),
        given.get("repeatable", False),
    )
    return asyncio.create_task(sending)


@asynccontextmanager
async def asked(
    limits: OutgoingLimits = PATIENT, on_silence: Callable[[], None] | None = None, **how: Any
) -> AsyncIterator[tuple[Client, Server, Wire, asyncio.Task[Received]]]:
    """A server, its client, and a request that has reached the server."""
    async with listening() as server:
        with server.client(limits=limits, on_silence=on_silence) as client:
            request = ask(client, **how)
            wire = await server.accept()
            await wire.request(len(how.get("body", b"")))
            yield client, server, wire, request


async def answer_in_turn(wires: Sequence[Wire], requests: Sequence[asyncio.Task[Any]]) -> None:
    """Answer a request on each; the client has one answer before the next is given, and uses the last one next."""
    for number, wire in enumerate(wires, start=1):
        await wire.request()
        await wire.say(OK)
        await wait_until(lambda: sum(request.done() for request in requests) >= number)  # noqa: B023


def let_pass(client: Client, seconds: float) -> None:
    """So many seconds go by for the client's connections: what is due by then is due now."""
    for connection in client._connections:
        connection.due -= seconds


def look(client: Client, times: int = 1) -> None:
    """The client looks after its connections so often."""
    for _ in range(times):
        if client._next_look is not None:
            client._next_look.cancel()
        client._look()


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
