"""The HTTP/1.1 client of calls to our own services: connections to one address, kept open, with one request at a time on each.

It does what they need and no more: answers come whole, and no redirect, cookie or packed body is looked at.
A connection is used again only when it is known to stand between two requests; whatever else happens closes it.
"""

import asyncio
import math
import ssl
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import httptools

Header = tuple[bytes, bytes]

CONNECT_SECONDS = 1.0
LONGEST_IDLE_SECONDS = 2.0
"""How long a connection is kept for the next request: less than the other end waits, also when it stops."""
MOST_CONNECTIONS = 128
"""Beyond these, requests wait: those to a service that does not answer must not use up what others need."""
MOST_WAITING = 900
"""Beyond these, requests are refused at once, as they would wait for longer than anybody waits for them."""
MOST_HEAD_BYTES = 64 * 1024
MOST_BYTES = 8 * 1024 * 1024
"""Of an answer, as it is held in memory; one that grows beyond is broken off."""

_PIECE_BYTES = 64 * 1024
_LOOK_SECONDS = 0.1
"""How often connections are looked for that are due. A timer for each request would cost 1 us of 13."""

Received = tuple[int, list[Header], bytes, bool]
"""Status, headers with their names in lower case, body, and whether the connection was told to close."""


class NotConnected(Exception):
    """The address cannot be reached; nothing was sent."""


class Busy(Exception):
    """Too many requests wait for the address already; nothing was sent."""


class Lost(Exception):
    """The connection broke before the whole answer came; the request may have taken effect."""


class Client:
    """Sends requests to one base URL, at one `address` of those that its host stands for, where one is given.

    Made and closed while the event loop runs. `tls` is for https; clients share a context, as making one holds
    up the event loop: measured, for 150 ms on a busy machine.
    """

    def __init__(self, url: str, address: str | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https" and tls is None:
            raise ValueError("https needs a TLS context")
        self._tls = tls if parts.scheme == "https" else None
        self._server_name = host if self._tls else None
        self._address = (address or host, parts.port or (443 if self._tls else 80))
        self._host = b"host: " + parts.netloc.encode()
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)
        self._connections: list[_Connection] = []
        self._idle: list[_Connection] = []  # in the order of their last use
        self._next_look: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._is_closed = False

    async def send(
        self, method: str, target: bytes, headers: Sequence[Header], body: bytes, deadline: float
    ) -> Received:
        """The whole answer, if it is there by `deadline` (of the loop's clock).

        Host and Content-Length are added to `headers`. Raises NotConnected, Busy, Lost and TimeoutError;
        ValueError for a line break in what is sent.
        """
        request = self._written(method, target, headers, body)
        if self._places.locked():
            await self._wait_for_a_place(deadline)
        else:
            await self._places.acquire()
        try:
            connection = self._idle_one() or await self._connect(deadline)
            received = await connection.ask(request, method == "HEAD", deadline)
        except Lost:
            while self._idle:  # likely as lost, which the next attempt should not have to find out
                self._idle.pop().close()
            raise
        finally:
            self._places.release()
        connection.due = self._loop.time() + LONGEST_IDLE_SECONDS
        self._idle.append(connection)
        return received

    async def _wait_for_a_place(self, deadline: float) -> None:
        if self._waiting >= MOST_WAITING:
            raise Busy
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):  # not around everything, as it costs 5 us
                await self._places.acquire()
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Close every connection; requests under way are lost."""
        self._is_closed = True
        for connection in self._connections:
            connection.close()

    def _written(self, method: str, target: bytes, headers: Sequence[Header], body: bytes) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (method.encode(), target), self._host, *map(b": ".join, headers)]
        if body or method not in ("GET", "HEAD"):
            lines.append(b"content-length: %d" % len(body))
        lines += (b"", b"")
        head = b"\r\n".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
            raise ValueError("a line break in the path or in a header")
        return head + body

    def _idle_one(self) -> "_Connection | None":
        """The one used last, so that those that are not needed grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._loop.time() < connection.due:
                return connection
            connection.close()
        return None

    async def _connect(self, deadline: float) -> "_Connection":
        async with asyncio.timeout_at(deadline):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    _, connection = await self._loop.create_connection(
                        _Connection, *self._address, ssl=self._tls, server_hostname=self._server_name
                    )
            except (OSError, UnicodeError) as error:  # a time-out is the one, no name to look up the other
                raise NotConnected from error
        if self._is_closed or not connection.is_open:
            connection.close()
            raise NotConnected
        self._connections.append(connection)
        if self._next_look is None:
            self._look()
        return connection

    def _look(self) -> None:
        now = self._loop.time()
        for connection in self._connections:
            if now >= connection.due:
                connection.close(TimeoutError)
        self._connections = [connection for connection in self._connections if connection.is_open]
        self._idle = [connection for connection in self._idle if connection.is_open]
        self._next_look = self._loop.call_later(_LOOK_SECONDS, self._look) if self._connections else None


class _Connection(asyncio.Protocol):
    """The event loop calls it with what arrives, and the parser calls its methods named `on_`."""

    def __init__(self) -> None:
        self.is_open = True
        self.due = math.inf
        """When it is to be closed: the deadline of what is asked, else the end of its being idle."""
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._answered: asyncio.Future[Received] | None = None
        self._is_head = False
        self._unfinished_bytes = 0
        self._headers: list[Header] = []
        self._head: list[Header] | None = None  # the headers, once all are there
        self._body: list[bytes] = []
        self._may_write: asyncio.Future[None] | None = None  # once too much waits to go out

    async def ask(self, request: bytes, is_head: bool, deadline: float) -> Received:
        """Send the request and wait for its answer. Raises Lost and TimeoutError, and is closed then."""
        answered: asyncio.Future[Received] = self._loop.create_future()
        self._answered, self._is_head, self._unfinished_bytes, self.due = answered, is_head, 0, deadline
        try:
            self._transport.write(request[:_PIECE_BYTES])
            if len(request) > _PIECE_BYTES:
                await self._write_the_rest(request, answered)
            return await answered
        except BaseException:
            answered.cancel()
            self.close()
            raise

    async def _write_the_rest(self, request: bytes, answered: asyncio.Future[Received]) -> None:
        for start in range(_PIECE_BYTES, len(request), _PIECE_BYTES):
            if self._may_write:
                await asyncio.wait((answered, self._may_write), return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                self.close()  # what is left unsaid must not be taken for the next request
                return
            self._transport.write(request[start : start + _PIECE_BYTES])

    def close(self, error: type[Exception] = Lost) -> None:
        """Take no more requests; the one under way gets the error."""
        self.is_open = False
        self._transport.abort()
        answered, self._answered = self._answered, None
        if answered and not answered.done():
            answered.set_exception(error())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            if self._answered is None:  # nobody asked
                self.close()
            else:
                self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
        if self._answered is not None:
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > (MOST_HEAD_BYTES if self._head is None else MOST_BYTES):
                self.close()

    def eof_received(self) -> None:
        has_length = any(name in (b"content-length", b"transfer-encoding") for name, _ in self._head or ())
        if self._head is not None and not has_length:
            self.on_message_complete()  # this is how such an answer ends
        self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.close()

    def pause_writing(self) -> None:
        self._may_write = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._may_write:
            self._may_write.set_result(None)

    def on_message_begin(self) -> None:
        if self._answered is None:  # right behind the answer comes another, and nobody asked
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head, self._headers = self._headers, []  # where trailers go from now on
        if self._is_head and self._parser.get_status_code() >= 200:
            self.on_message_complete()
            self.close()  # the parser waits for the body that the headers speak of

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        head, body = self._head or [], self._body
        self._headers, self._head, self._body = [], None, []
        status = self._parser.get_status_code()
        if self._answered is None or status < 200:  # after 1xx, the answer itself comes
            return
        is_last = not self._parser.should_keep_alive()
        if not self._answered.done():
            self._answered.set_result((status, head, b"".join(body), is_last))
        self._answered = None
        if is_last:
            self.close()
