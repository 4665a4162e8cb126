"""Services of this process, called without a socket."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message

from common import metrics
from common.errors import BrokenOff, Unavailable
from common.outgoing.errors import ServiceLost, ServiceSlow
from common.outgoing.headers import TOKEN_HEADER
from common.outgoing.limits import OutgoingLimits
from common.outgoing.message import Answer, Header, Outgoing

Apps = dict[str, ASGIApp]
"""The services of this process by name; empty when each runs in a process of its own."""

_LOOK_SECONDS = 0.1
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class LocalService:
    """A service of this process, with a bound on what is under way and a time limit for each request.

    One timer for all requests: measured, `asyncio.timeout` for each would cost a tenth of the gateway's part.
    """

    def __init__(self, name: str, app: ASGIApp, token: str, limits: OutgoingLimits) -> None:
        self._name = name
        self._app = app
        self._token = (TOKEN_HEADER.encode(), token.encode())
        self._limits = limits
        self._due: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._is_watched = False

    async def send(self, request: Outgoing) -> Answer:
        """The app's reply. Raises Unavailable, ServiceLost, and ServiceSlow up to `_LOOK_SECONDS` late."""
        if len(self._due) >= self._limits.max_local:
            metrics.UPSTREAM_FAILURES.labels(self._name, "busy").inc()
            raise Unavailable(self._name)
        task = asyncio.current_task()
        assert task  # noqa: S101 - coroutines run in tasks
        self._due[task] = time.monotonic() + request.seconds
        if not self._is_watched:
            self._look()
        try:
            return await self._call(request)
        except BrokenOff:
            metrics.UPSTREAM_FAILURES.labels(self._name, "lost").inc()
            raise ServiceLost(self._name) from None
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                metrics.UPSTREAM_FAILURES.labels(self._name, "slow").inc()
                raise ServiceSlow(self._name) from None
            raise
        finally:
            del self._due[task]
            self._late.discard(task)

    async def close(self) -> None:
        """Nothing is open."""

    def _look(self) -> None:
        now = time.monotonic()
        for task, due in self._due.items():
            if now >= due and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._is_watched = bool(self._due)
        if self._is_watched:
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    async def _call(self, request: Outgoing) -> Answer:
        scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode(),
            "root_path": "",
            "query_string": request.query,
            "headers": [*request.headers, self._token, (b"content-length", b"%d" % len(request.body))],
            "client": None,
            "server": None,
        }
        is_read = False
        status = 0
        headers: Sequence[Header] = ()
        parts: list[bytes] = []

        async def receive() -> Message:
            nonlocal is_read
            if is_read:  # nothing more comes, and nobody disconnects
                await asyncio.get_running_loop().create_future()
            is_read = True
            return {"type": "http.request", "body": request.body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], message.get("headers", ())
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        return Answer(status, [(name.lower(), value) for name, value in headers], b"".join(parts))
