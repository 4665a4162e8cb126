"""A client's connection: what uvicorn leaves open is decided here.

Whatever clients do, memory and open files stay bounded: by the size of a request's head, by the time in which it
must arrive, by what else arrives that nobody reads, by the time for which an answer waits to be read, and by the
number of connections. And what could be read in two ways is not read at all, so that no two servers in a row see
different requests in the same bytes.
"""

import asyncio
import logging
import resource
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from itertools import islice

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.errors import ServiceError
from gateway.errors import HeadTooLarge, HeadTooSlow, InvalidRequest, TooManyConnections
from gateway.proxy import refusal

logger = logging.getLogger(__name__)

_MAX_CONNECTIONS = 10_000
_FILES_FOR_OTHERS = 500
"""Left to the connections to services and databases, and to logs."""
_MACOS_FILES = 10_240
"""macOS says that there is no hard limit, and refuses a soft one above this (its OPEN_MAX)."""
_SEARCHED_CONNECTIONS = 64
"""Beyond the first ones, the search for an idle connection would cost a flooded gateway too much."""


class ClientConnection(HttpToolsProtocol):
    """uvicorn's own protocol, with limits."""

    most_connections = _MAX_CONNECTIONS
    most_head_bytes = 64 * 1024
    most_headers = 256
    most_unread_bytes = 1024 * 1024
    """Of a request behind its head: what frames its body, what follows it, and all of it once it is answered."""
    most_waiting = 16
    """Requests that are sent without waiting for the answer to the one before."""
    slow_seconds = 10.0
    """What has not moved for this long, but not for twice as long, is given up; but for idle connections."""

    _is_over = False
    _is_in_head = True
    _data_bytes = 0
    _unread_bytes = 0
    _unsent_bytes = 0
    _waited_after: object = None
    _refused: ServiceError | None = None
    _look_again: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it stands between two requests; uvicorn closes it when it has done so for `IDLE_SECONDS`."""
        return self.cycle is not None and self.cycle.response_complete and not self._unread_bytes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """A client connects, and is told at once when too many others are."""
        super().connection_made(transport)
        self._look_again = self.loop.call_later(self.slow_seconds, self._look)
        if len(self.connections) > self.most_connections and not self._make_room():
            self._refuse(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._look_again:
            self._look_again.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request, or more than one."""
        if self._is_over or self.transport.is_closing():
            return
        self._data_bytes = len(data)
        self._unread_bytes += self._data_bytes
        super().data_received(data)
        if (
            self.is_idle and self.timeout_keep_alive_task is None
        ):  # this was the end of a body, after its answer
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._unread_bytes:  # within a request
            most = self.most_head_bytes if self._is_in_head else self.most_unread_bytes
            if self._unread_bytes > most or len(self.headers or ()) > self.most_headers:
                self._refuse(HeadTooLarge())

    def on_headers_complete(self) -> None:
        """The parser saw the end of a request's head."""
        self._refused = self._fault()
        if self._refused:
            raise self._refused
        super().on_headers_complete()
        self._is_in_head = False
        self.headers = []  # where trailers go from now on: nobody in front has looked at those
        if self.parser.should_upgrade():  # what follows is in another language, as far as the parser knows
            self._end_with_the_last_answer()

    def on_body(self, body: bytes) -> None:
        """Part of a request's body."""
        if not self.cycle.response_complete:
            self._unread_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser saw the end of a request."""
        super().on_message_complete()
        self._is_in_head = True
        self._unread_bytes = 0

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn gives it
        """Answer what is no HTTP, or what `on_headers_complete` refused."""
        self._refuse(self._refused or InvalidRequest())

    def _fault(self) -> ServiceError | None:
        """What is wrong with a head, if anything."""
        headers, parser = self.headers, self.parser
        if len(headers) > self.most_headers or (
            max(self._unread_bytes, self._data_bytes) > self.most_head_bytes
            and self._size() > self.most_head_bytes
        ):
            return HeadTooLarge()
        names = [name for name, _ in headers]
        hosts = names.count(b"host")
        is_chunked = b"transfer-encoding" in names
        if (
            not self.url.startswith(b"/")
            or b"#" in self.url
            or (hosts != 1 and (hosts or parser.get_http_version() != "1.0"))
            or (is_chunked and self._values(b"transfer-encoding") != [b"chunked"])
            or (is_chunked and parser.get_http_version() != "1.1")
            or len(self.pipeline) >= self.most_waiting
        ):
            return InvalidRequest()
        if parser.should_upgrade() and (is_chunked or self._values(b"content-length") not in ([], [b"0"])):
            return InvalidRequest("an upgrade with a body")  # which the parser takes for the next request
        return None

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _values(self, wanted: bytes) -> list[bytes]:
        return [value.strip().lower() for name, value in self.headers if name == wanted]

    def _look(self) -> None:
        self._look_again = self.loop.call_later(self.slow_seconds, self._look)
        unsent = self.transport.get_write_buffer_size()
        waits_for_client = (
            not unsent and (self.cycle is None or self.cycle.response_complete) and not self.is_idle
        )
        if unsent and unsent == self._unsent_bytes:
            self.transport.abort()
        elif waits_for_client and self.cycle is self._waited_after:
            self._refuse(HeadTooSlow())
        self._unsent_bytes = unsent
        self._waited_after = self.cycle if waits_for_client else self

    def _make_room(self) -> bool:
        """Close a connection that stands between two requests, where one is found without a long search."""
        for other in islice(self.connections, _SEARCHED_CONNECTIONS):
            if isinstance(other, ClientConnection) and other.is_idle and not other.transport.is_closing():
                other.transport.close()
                return True
        return False

    def _refuse(self, error: ServiceError) -> None:
        """Read no more, and tell why, unless that would be taken for the answer to another request."""
        if self._is_over:
            return
        self._is_over = True
        cycle = self.cycle
        if self._is_in_head and cycle and not cycle.response_complete:
            self._end_with_the_last_answer()
            return
        if self._is_in_head or not (cycle.response_started or self.pipeline):
            self._write(error)
        self.transport.close()

    def _end_with_the_last_answer(self) -> None:
        self._is_over = True
        self.cycle.keep_alive = False

    def _write(self, error: ServiceError) -> None:
        status, headers, body = refusal(error)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *map(b": ".join, headers)]
        self.transport.write(b"\r\n".join((*lines, b"connection: close", b"", body)))


def allow_open_files() -> None:
    """Raise this process's limit of open files as far as possible, and accept no more connections than fit."""
    files = raise_limit(resource.getrlimit(resource.RLIMIT_NOFILE), _set_limit)
    ClientConnection.most_connections = connections_within(files)


def _set_limit(soft: int, hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def raise_limit(limits: tuple[int, int], set_limit: Callable[[int, int], None]) -> int:
    """Raise the soft limit as far as the system permits; answers the one that then holds. The hard one stays."""
    soft, hard = limits
    wanted = [most for most in (hard, _MAX_CONNECTIONS + _FILES_FOR_OTHERS, _MACOS_FILES) if most >= 0]
    if soft == resource.RLIM_INFINITY:
        return max(wanted)
    for files in wanted:
        if soft < files and (hard == resource.RLIM_INFINITY or files <= hard):
            with suppress(OSError, ValueError):
                set_limit(files, hard)
                return files
    return soft


def connections_within(files: int) -> int:
    """How many connections so many open files have room for; warns where others need most of the files."""
    most = min(_MAX_CONNECTIONS, max(files - _FILES_FOR_OTHERS, files // 2))
    if files < 2 * _FILES_FOR_OTHERS:
        logger.warning(
            "this process may open %d files only, so it serves %d clients at once: raise its limit (ulimit -n)",
            files,
            most,
        )
    return most
