"""A client's connection: what uvicorn leaves without a limit has one here.

Whatever clients do, memory and open files stay bounded: by the size of a request's head, by the time in which it
must arrive, by the time for which an answer waits to be read, and by the number of connections.
"""

import asyncio
import resource
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.errors import ServiceError
from gateway.errors import HeadTooLarge, HeadTooSlow, InvalidRequest, TooManyConnections
from gateway.proxy import refusal

_FILES_FOR_OTHERS = 500
"""Left to the connections to services and databases, and to logs."""


class ClientConnection(HttpToolsProtocol):
    """uvicorn's own protocol, with limits."""

    most_connections = 10_000
    most_head_bytes = 64 * 1024
    slow_seconds = 10.0
    """What has not moved for this long, but not for twice as long, is given up."""

    _refused: ServiceError | None = None
    _head_bytes = 0
    _head_began: float | None = None
    _unread_bytes = 0
    _look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """A client connects, and is told at once when too many others are."""
        super().connection_made(transport)
        self._head_began = self.loop.time()
        self._look_again = self.loop.call_later(self.slow_seconds, self._look)
        if len(self.connections) > self.most_connections:
            self._refuse(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._look_again:
            self._look_again.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request, or more than one."""
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_began is None:
            self._head_bytes = 0
        elif self._head_bytes > self.most_head_bytes:
            self._refuse(HeadTooLarge())

    def on_message_begin(self) -> None:
        """The parser saw the first byte of a request."""
        super().on_message_begin()
        self._head_began = self.loop.time()

    def on_headers_complete(self) -> None:
        """The parser saw the end of a request's head."""
        if self._head_bytes > self.most_head_bytes and self._size() > self.most_head_bytes:
            self._refused = HeadTooLarge()
            raise self._refused
        self._head_began = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn gives it
        """Answer what is no HTTP, or what `on_headers_complete` refused."""
        self._refuse(self._refused or InvalidRequest())

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _look(self) -> None:
        self._look_again = self.loop.call_later(self.slow_seconds, self._look)
        unread = self.transport.get_write_buffer_size()
        if unread and unread == self._unread_bytes:
            self.transport.abort()
        elif self._head_began and self.loop.time() - self._head_began >= self.slow_seconds:
            self._refuse(HeadTooSlow())
        self._unread_bytes = unread

    def _refuse(self, error: ServiceError) -> None:
        status, headers, body = refusal(error)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *map(b": ".join, headers)]
        self.transport.write(b"\r\n".join((*lines, b"connection: close", b"", body)))
        self.transport.close()


def allow_open_files() -> None:
    """Raise the limit of open files as far as the system lets us, and accept no more connections than fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY:
        ClientConnection.most_connections = min(ClientConnection.most_connections, hard - _FILES_FOR_OTHERS)
