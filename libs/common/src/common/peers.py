"""Calls from one service to another's internal routes.

In one process the other service's app is called directly; else over HTTP, in turn to each of its replicas
when one does not answer.
"""

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
from starlette.types import ASGIApp

from common.errors import ServiceError, Unavailable
from common.logs import key_name, request_id
from common.tracing import TRACEPARENT_HEADER, traceparent

TOKEN_HEADER = "x-callboard-token"  # noqa: S105 - the header's name, not a token
KEY_NAME_HEADER = "x-callboard-key"
REQUEST_ID_HEADER = "x-request-id"

LONGEST_IDLE_SECONDS = 2.0
"""How long a connection is kept for the next request: less than the other end waits, also when it stops."""

Apps = dict[str, ASGIApp]
"""The services of this process by name; empty when each runs in a process of its own."""


class Peer:
    """Another service. Close it when done."""

    def __init__(self, name: str, urls: str, token: str, apps: Apps) -> None:
        self.name = name
        self._urls = [url.strip().rstrip("/") for url in urls.split(",")]
        self._turn = itertools.count()
        transport = httpx.ASGITransport(apps[name], raise_app_exceptions=False) if name in apps else None
        limits = httpx.Limits(max_connections=100, keepalive_expiry=LONGEST_IDLE_SECONDS)
        self._client = httpx.AsyncClient(
            transport=transport, headers={TOKEN_HEADER: token}, limits=limits, trust_env=False
        )

    async def get(self, path: str, *, seconds: float = 2.0, **params: Any) -> dict[str, Any]:
        """The JSON answer to GET `path`. Raises as `post` does."""
        return await self._call("GET", path, seconds, params=params)

    async def post(self, path: str, body: Mapping[str, Any], *, seconds: float = 5.0) -> dict[str, Any]:
        """The JSON answer to POST `path`.

        When a connection is lost, another replica is asked: what is asked for must be safe to repeat. Raises
        Unavailable when none answers in `seconds`, and the other service's own ServiceError when it refuses.
        """
        return await self._call("POST", path, seconds, json=body)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _call(self, method: str, path: str, seconds: float, **how: Any) -> dict[str, Any]:
        headers = {
            name.encode(): value.encode("latin-1")  # as it was decoded when it came
            for name, value in (
                (REQUEST_ID_HEADER, request_id.get()),
                (KEY_NAME_HEADER, key_name.get()),
                (TRACEPARENT_HEADER, traceparent.get()),
            )
            if value
        }
        first = next(self._turn)
        try:
            async with asyncio.timeout(seconds):  # httpx does not limit a call within the process
                for attempt in range(max(2, len(self._urls))):
                    url = self._urls[(first + attempt) % len(self._urls)]
                    with suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                        answer = await self._client.request(method, url + path, headers=headers, **how)
                        return self._read(answer)
        except (TimeoutError, httpx.HTTPError) as error:
            raise Unavailable(self.name) from error
        raise Unavailable(self.name)

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        # 401 means that our token is not theirs, which no caller of ours can mend.
        if answer.status_code in (401, 500, 503, 504):
            raise Unavailable(self.name)
        body: dict[str, Any] = answer.json()
        if answer.is_error:
            raise ServiceError(answer.status_code, body.get("message"), discord=body.get("discord"))
        return body
