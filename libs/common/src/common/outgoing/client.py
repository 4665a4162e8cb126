"""The HTTP/1.1 client of calls to our own services: connections to one address, kept open, with one request at a time on each.

It does what they need and no more: answers come whole, and no redirect, cookie or packed body is looked at.
A connection is used again only when it is known to stand between two requests; whatever else happens closes it.
"""

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast
from urllib.parse import urlsplit

import httptools

from common.outgoing.limits import OutgoingLimits
from common.outgoing.message import Header

_PIECE_BYTES = 64 * 1024
_LOOK_SECONDS = 0.1
"""How often connections are looked for that are due or silent. A timer for each request would cost 1 us of 13."""

Received = tuple[int, list[Header], bytes, bool]
"""Status, headers with their names in lower case, body, and whether the connection was told to close."""


class NotConnected(Exception):
    """The address cannot be reached; nothing was sent."""


class Busy(Exception):
    """Too many requests wait for the address already; nothing was sent."""


class Lost(Exception):
    """The connection broke before the whole answer came; the request may have taken effect."""


class Silent(Exception):
    """The server was silent for as long as this attempt may take; the request may take effect."""


class Client:
    """Sends requests to one base URL, at one `address` of those that its host stands for, where one is given.

    Made and closed while the event loop runs. `tls` is for https; clients share a context, as making one holds
    up the event loop: measured, for 150 ms on a busy machine. `on_silence` is called again and again while requests
    wait for a server that says nothing.
    """

    def __init__(
        self,
        url: str,
        address: str | None = None,
        *,
        limits: OutgoingLimits,
        tls: ssl.SSLContext | None = None,
        on_silence: Callable[[], None] | None = None,
    ) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https" and tls is None:
            raise ValueError("https needs a TLS context")
        self._tls = tls if parts.scheme == "https" else None
        self._server_name = host if self._tls else None
        self._address = (address or host, parts.port or (443 if self._tls else 80))
        self._host = b"host: " + parts.netloc.encode()
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._on_silence = on_silence
        self._silent_looks = 0
        """How often in a row requests were under way and nothing had come since the look before, on any connection.

        Looks are counted rather than seconds: while this process is paused, nobody is silent.
        """
        self._slots = limits.max_connections
        self._waiters = deque[asyncio.Future[None]]()
        self._connections: list[_Connection] = []
        self._idle: list[_Connection] = []  # in the order of their last use
        self._next_look: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def address(self) -> str:
        """Where the server listens, as people write it."""
        host, port = self._address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def is_in_use(self) -> bool:
        """Whether a connection is open."""
        return bool(self._connections)

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Sequence[Header],
        body: bytes,
        deadline: float,
        share: float = math.inf,
        repeatable: bool = False,
    ) -> Received:
        """The whole answer, if it is there by `deadline` (of the loop's clock).

        Host and Content-Length are added to `headers`. `share` is how many seconds this attempt may take to connect,
        and, of a repeatable request, how long the server may be silent. Raises NotConnected, Busy, Lost, Silent and
        TimeoutError; ValueError for a line break in what is sent.
        """
        request = self._written(method, target, headers, body)
        if self._slots:
            self._slots -= 1
        else:
            await self._wait_for_slot(deadline)
        try:
            connection = self._idle_one() or await self._connect(deadline, share)
            patience = share / _LOOK_SECONDS if repeatable else math.inf
            received = await connection.ask(request, method == "HEAD", deadline, patience)
        except Lost:
            while self._idle:  # likely as lost, which the next attempt should not have to find out
                self._idle.pop().close()
            raise
        finally:
            self._free_slot()
        connection.due = self._loop.time() + self._limits.idle_seconds
        self._idle.append(connection)
        return received

    async def probe(self, target: bytes, deadline: float) -> None:
        """Return once GET `target` is answered, however, on a connection of its own. Raises as `send` does."""
        connection = await self._connect(deadline)
        try:
            await connection.ask(self._written("GET", target, (), b""), False, deadline)
        finally:
            connection.close()

    def abandon(self) -> None:
        """Give up what may be asked of another server: what was not sent yet, and attempts that have only a share."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(NotConnected())
        while self._idle:
            self._idle.pop().close()
        for connection in self._connections:
            if connection.is_asked and connection.patience < math.inf:
                connection.close(Silent)

    async def _wait_for_slot(self, deadline: float) -> None:
        if len(self._waiters) >= self._limits.max_waiting:
            raise Busy
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):  # not around everything, as it costs 5 us
                await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._free_slot()  # it came at the same moment
            with suppress(ValueError):
                self._waiters.remove(waiter)
            raise

    def _free_slot(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._slots += 1

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

    async def _connect(self, deadline: float, share: float = math.inf) -> "_Connection":
        limit = self._loop.time() + min(self._limits.connect_seconds, share)
        try:
            async with asyncio.timeout_at(min(limit, deadline)):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._limits),
                    *self._address,
                    ssl=self._tls,
                    server_hostname=self._server_name,
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
        was_heard = is_asked = False
        for connection in self._connections:
            was_heard = was_heard or connection.was_heard
            connection.was_heard = False
        for connection in self._connections:
            if connection.is_asked:
                is_asked = True
                connection.silent_looks = 0 if was_heard else connection.silent_looks + 1
                if connection.silent_looks > connection.patience:
                    connection.close(Silent)
            if now >= connection.due:
                connection.close(TimeoutError)
        if was_heard:
            self._silent_looks = 0
        elif is_asked:
            self._silent_looks += 1
            if self._on_silence and self._silent_looks * _LOOK_SECONDS > self._limits.silent_seconds:
                self._silent_looks = 0  # a probe that is answered late is followed by the next one
                self._on_silence()
        self._connections = [connection for connection in self._connections if connection.is_open]
        self._idle = [connection for connection in self._idle if connection.is_open]
        self._next_look = self._loop.call_later(_LOOK_SECONDS, self._look) if self._connections else None


class _Connection(asyncio.Protocol):
    """The event loop calls it with what arrives, and the parser calls its methods named `on_`."""

    def __init__(self, limits: OutgoingLimits) -> None:
        self.is_open = True
        self.was_heard = False
        """Whether anything came since the client looked last."""
        self.silent_looks = 0
        """How often in a row the client found nothing to have come since it looked last, while it waits for this."""
        self.patience = math.inf
        """How many of them the attempt takes."""
        self.due = math.inf
        """When it is to be closed: the deadline of what is asked, else the end of its being idle."""
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._answered: asyncio.Future[Received] | None = None
        self._is_head = False
        self._unfinished_bytes = 0
        self._headers: list[Header] = []
        self._head: list[Header] | None = None  # the headers, once all are there
        self._body: list[bytes] = []
        self._may_write: asyncio.Future[None] | None = None  # once too much waits to go out

    @property
    def is_asked(self) -> bool:
        """Whether a request is under way."""
        return self._answered is not None

    async def ask(
        self, request: bytes, is_head: bool, deadline: float, patience: float = math.inf
    ) -> Received:
        """Send the request and wait for its answer. Raises Lost, Silent and TimeoutError, and is closed then."""
        answered: asyncio.Future[Received] = self._loop.create_future()
        self._answered, self._is_head, self._unfinished_bytes, self.due = answered, is_head, 0, deadline
        self.silent_looks, self.patience = 0, patience
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
        self.was_heard = True
        try:
            if self._answered is None:  # nobody asked
                self.close()
            else:
                self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
        if self._answered is not None:
            self._unfinished_bytes += len(data)
            limits = self._limits
            if self._unfinished_bytes > (
                limits.max_head_bytes if self._head is None else limits.max_body_bytes
            ):
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
