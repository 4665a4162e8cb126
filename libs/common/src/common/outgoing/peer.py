"""Calls from one service to another's internal routes.

In one process the other service's app is called directly; else over HTTP, each call to the next of its replicas,
and to one more after the other where none can be reached.
"""

import asyncio
import itertools
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import httpx

from common.errors import BrokenOff, ServiceError, Unavailable
from common.logs import key_name, request_id
from common.outgoing.client import LONGEST_IDLE_SECONDS
from common.outgoing.headers import KEY_NAME_HEADER, REQUEST_ID_HEADER, TOKEN_HEADER
from common.outgoing.local import Apps
from common.tracing import TRACEPARENT_HEADER, traceparent

_TRY_ANOTHER = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout, BrokenOff)


class Peer:
    """Another service. Close it when done."""

    def __init__(self, name: str, urls: str, token: str, apps: Apps) -> None:
        self.name = name
        self._urls = [httpx.URL(url.strip().rstrip("/")) for url in urls.split(",")]
        self._is_here = name in apps
        self._turn = itertools.count()
        transport = httpx.ASGITransport(apps[name]) if self._is_here else None
        limits = httpx.Limits(max_connections=100, keepalive_expiry=LONGEST_IDLE_SECONDS)
        self._client = httpx.AsyncClient(
            transport=transport,
            headers={TOKEN_HEADER: token},
            limits=limits,
            trust_env=False,
            verify=_tls_context(),
        )

    async def get(self, path: str, *, seconds: float = 2.0, **params: Any) -> dict[str, Any]:
        """The JSON answer to GET `path`. Raises as `post` does."""
        return await self._call("GET", path, seconds, params=params)

    async def post(self, path: str, body: Mapping[str, Any], *, seconds: float = 5.0) -> dict[str, Any]:
        """The JSON answer to POST `path`.

        When a replica cannot be reached, breaks off or has another token, another is asked: what is asked for must be
        safe to repeat.
        Raises Unavailable when none answers in `seconds`, and the other service's own ServiceError when it refuses.
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
        limits = httpx.Timeout(seconds, connect=seconds / 3)  # of one that is gone, nothing may come back
        try:
            async with asyncio.timeout(seconds):  # httpx does not limit a call within the process
                for named, url in await self._replicas():
                    with suppress(*_TRY_ANOTHER):
                        answer = await self._client.request(
                            method,
                            url.copy_with(path=path),
                            headers=headers | {b"host": named.netloc},
                            extensions={"sni_hostname": named.host},
                            timeout=limits,
                            **how,
                        )
                        # 401: our token is not its own, as while one is replaced; it did nothing.
                        if answer.status_code != 401:
                            return self._read(answer)
        except (TimeoutError, httpx.HTTPError) as error:
            raise Unavailable(self.name) from error
        raise Unavailable(self.name)

    async def _replicas(self) -> Sequence[tuple[httpx.URL, httpx.URL]]:
        """The URL and, with an address in it, the same again: of each replica, in this call's turn.

        The only one comes twice, as a service that restarts closes its connections.
        """
        found: list[tuple[httpx.URL, httpx.URL]] = []
        for url in self._urls:
            with suppress(OSError, UnicodeError):
                hosts = [url.host] if self._is_here else await addresses(url.host)
                found += [(url, url.copy_with(host=host)) for host in hosts]
        first = next(self._turn) % max(1, len(found))
        return found * 2 if len(found) == 1 else [*found[first:], *found[:first]]

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code in (500, 503, 504):
            raise Unavailable(self.name)
        try:
            body: dict[str, Any] = answer.json()
        except ValueError as error:  # of something in between, or of a wrong URL
            raise Unavailable(self.name) from error
        if answer.is_error:
            raise ServiceError(answer.status_code, body.get("message"), discord=body.get("discord"))
        return body


@lru_cache
def _tls_context() -> ssl.SSLContext:
    """One for all peers of this process: making it holds up the event loop, measured for 150 ms on a busy machine."""
    return httpx.create_ssl_context(trust_env=False)


async def addresses(host: str) -> Sequence[str]:
    """What a name stands for: of containers or pods, it may be several. Raises OSError and UnicodeError.

    The system sorts them the same way each time, so whoever connects by name calls one of them only.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})
