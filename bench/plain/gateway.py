"""The way in: `python -m bench.plain.gateway PORT httpx|aiohttp`. The key is looked up, then the call forwarded."""

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import httpx
from fastapi import FastAPI, HTTPException, Request, Response

from bench.plain.setup import TOKEN, serve

ROUTES = {("GET", "/connect"): "accounts", ("GET", "/profile"): "accounts", ("POST", "/log"): "shifts"}
ROBLOX_ONLY = {"/connect", "/log"}
UPSTREAMS: dict[str, str] = json.loads(os.environ.get("PLAIN_UPSTREAMS", "{}"))
KEYS: dict[str, dict[str, Any]] = json.loads(os.environ.get("PLAIN_KEYS", "{}"))
"""By the key's SHA-256: its name and scope."""

Send = Callable[[str, str, dict[str, str], bytes], Awaitable[Response]]


@asynccontextmanager
async def with_httpx() -> AsyncIterator[Send]:
    """Forwarding with httpx."""
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    async with httpx.AsyncClient(limits=limits, timeout=10, trust_env=False) as client:

        async def send(method: str, url: str, headers: dict[str, str], body: bytes) -> Response:
            answer = await client.request(method, url, headers=headers, content=body)
            return Response(answer.content, answer.status_code, kept(answer.headers))

        yield send


@asynccontextmanager
async def with_aiohttp() -> AsyncIterator[Send]:
    """Forwarding with aiohttp."""
    connector = aiohttp.TCPConnector(limit=512)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as client:

        async def send(method: str, url: str, headers: dict[str, str], body: bytes) -> Response:
            async with client.request(method, url, headers=headers, data=body or None) as answer:
                return Response(await answer.read(), answer.status, kept(answer.headers))

        yield send


HOPS: dict[str, Callable[[], AbstractAsyncContextManager[Send]]] = {
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
}


def kept(headers: Any) -> dict[str, str]:
    """What of the service's headers the caller sees."""
    return {name: headers[name] for name in ("content-type", "idempotent-replayed") if name in headers}


def create(hop: str) -> FastAPI:
    """The gateway, with one of the HOPS."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with HOPS[hop]() as send:
            app.state.send = send
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def forward(path: str, request: Request) -> Response:
        service = ROUTES.get((request.method, f"/{path}"))
        if service is None:
            raise HTTPException(404, "not found")
        key = request.headers.get("x-api-key", "")
        principal = KEYS.get(hashlib.sha256(key.encode()).hexdigest())
        if principal is None:
            raise HTTPException(401, "invalid key")
        if f"/{path}" in ROBLOX_ONLY and (
            principal["scope"] != "roblox"
            or request.headers.get("roblox-id") != request.query_params.get("place")
        ):
            raise HTTPException(403, "access denied")
        headers = {"x-plain-token": TOKEN, "x-plain-key": principal["name"]}
        if idempotency_key := request.headers.get("idempotency-key"):
            headers["idempotency-key"] = idempotency_key
        url = f"{UPSTREAMS[service]}/{path}?{request.url.query}"
        answer: Response = await request.app.state.send(request.method, url, headers, await request.body())
        return answer

    return app


if __name__ == "__main__":
    serve(create(sys.argv[2]), int(sys.argv[1]))
