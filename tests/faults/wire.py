"""A wire between two parts of the system, which a test can cut and heal."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from callboard.servers import free_port

Cut = Literal["refuse", "silent", "deaf"]
"""Connections are reset; or stay open while nothing passes; or pass what is asked, but no answer."""

Passing = Literal["requests", "answers", "requests lost", "answers lost"]
"""What a wire counts, in pieces as they were read; a request or an answer of ours is usually one."""


class Wire:
    """A TCP proxy on a port of its own. What passes while it is cut is lost for good, also that an end closes.

    Nothing passes before `target_port` is known.
    """

    def __init__(self, target_port: int | None = None) -> None:
        self.port = free_port()
        self.target_port = target_port
        self.seen: Counter[Passing] = Counter()
        self._cut: Cut | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)

    def cut(self, how: Cut) -> None:
        """Cut the wire, for the connections that there are and for new ones."""
        self._cut = how
        if how == "refuse":
            self._abort_all()

    def heal(self) -> None:
        """Let new connections through. Those that there are may have lost something, and are reset."""
        self._cut = None
        self._abort_all()

    async def close(self) -> None:
        """Close every connection, and the port."""
        if self._server:
            self._server.close()
        self._abort_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _abort_all(self) -> None:
        for writer in self._connections:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._connections.add(writer)
        try:
            if self._cut == "refuse":
                self.seen["requests lost"] += 1
                return
            if self.target_port is None:
                return
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._connections.add(to_writer)
            try:
                await asyncio.gather(
                    self._pass_on(reader, to_writer, "requests", lambda: self._cut in (None, "deaf")),
                    self._pass_on(to_reader, writer, "answers", lambda: self._cut is None),
                )
            finally:
                self._connections.discard(to_writer)
                to_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        what: Literal["requests", "answers"],
        passes: Callable[[], bool],
    ) -> None:
        lost: Passing = "requests lost" if what == "requests" else "answers lost"
        with suppress(OSError):
            while data := await reader.read(65_536):
                if passes():
                    self.seen[what] += 1
                    writer.write(data)
                    await writer.drain()
                else:
                    self.seen[lost] += 1
        if passes():
            writer.close()
