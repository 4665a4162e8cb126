"""What the gateway's tests build: upstreams that tell what reached them, keys, and a gateway to call."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from common.mongo import Database, connect, migrate
from gateway.connections import ClientConnection
from gateway.keys import create_key
from gateway.main import create
from gateway.models import KeyScope
from gateway.repository import COLLECTIONS
from gateway.settings import GatewaySettings
from tests.support import ROOT, Servers, running, settings, unique_id, wait_until

SERVICES = ("accounts", "certifications", "applications", "shifts")


class Echo:
    """An upstream that answers with the request as it arrived, and remembers it."""

    def __init__(self, name: str = "", document: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.document = document
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        seen = {
            "service": self.name,
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]
            ],
            "body": body.decode("latin-1"),
        }
        answer: Mapping[str, Any] = seen
        if scope["path"] == "/openapi.json" and self.document is not None:
            answer = self.document
        else:
            self.seen.append(seen)
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", b"of the service"),
            (b"connection", b"keep-alive"),
            (b"x-of-the-service", b"kept"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def echoes() -> dict[str, Echo]:
    """An echo in place of each service."""
    return {name: Echo(name) for name in SERVICES}


def headers_of(response: httpx.Response) -> dict[str, str]:
    """The headers that reached the echo."""
    return dict(response.json()["headers"])


@asynccontextmanager
async def open_gateway(
    servers: Servers, apps: Mapping[str, ASGIApp] | None = None, **given: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in front of these apps, started, and a client that sends nothing of its own."""
    own = settings(GatewaySettings, servers, **given)
    async with running(create(own, dict(apps or {})), own) as client:
        client.headers.clear()
        yield client


@asynccontextmanager
async def served_gateway(
    servers: Servers, apps: Mapping[str, ASGIApp] | None = None, **given: Any
) -> AsyncIterator[str]:
    """A gateway in front of these apps, behind a port; answers its URL."""
    own = settings(GatewaySettings, servers, **given)
    app = create(own, dict(apps or {}))
    async with running(app, own), served(app) as url:
        yield url


def changed_config(folder: Path, changes: Mapping[str, str]) -> Path:
    """The shipped `callboard.toml` with parts of its text replaced."""
    text = (ROOT / "callboard.toml").read_text("utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "callboard.toml"
    path.write_text(text, "utf-8")
    return path


@asynccontextmanager
async def open_database(servers: Servers) -> AsyncIterator[Database]:
    """The gateway's database, migrated."""
    client, database = connect(settings(GatewaySettings, servers), "gateway")
    async with client:
        await migrate(database, COLLECTIONS)
        yield database


def unique_name() -> str:
    """A name that no other key has."""
    return f"key-{unique_id()}"


async def make_key(
    servers: Servers,
    scope: KeyScope = "operator",
    *,
    name: str | None = None,
    expires_at: datetime | None = None,
    **limits: Any,
) -> str:
    """A new key."""
    async with open_database(servers) as database:
        return await create_key(
            database,
            name=name or unique_name(),
            scope=scope,
            expires_at=expires_at,
            created_by="the tests",
            **limits,
        )


async def plant(database: Database, name: str, changes: Mapping[str, Any]) -> None:
    """Change a key as a newer version would, whose validator takes what today's refuses."""
    update = {"$set": changes, "$currentDate": {"changed_at": True}}
    await database["keys"].update_one({"name": name}, update, bypass_document_validation=True)


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        return nullcontext()  # signals belong to the test run


@asynccontextmanager
async def served(
    app: ASGIApp,
    http: type[asyncio.Protocol] = ClientConnection,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    idle_seconds: int = 60,
) -> AsyncIterator[str]:
    """The app behind a port of its own, or a given one, over HTTP; answers its URL."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=http,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        timeout_keep_alive=idle_seconds,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    try:
        await wait_until(lambda: server.started)
        yield f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


async def start_process(servers: Servers, port: int, *before: str, **given: str) -> Process:
    """The gateway as a process of its own; `before` is what starts it."""
    environment = {
        "CALLBOARD_MONGO_URL": servers.mongo_url,
        "CALLBOARD_INTERNAL_TOKEN": servers.internal_token,
        "CALLBOARD_CONFIG": str(ROOT / "callboard.toml"),
        "CALLBOARD_PORT": str(port),
    }
    command = (*before, sys.executable, "-m", "gateway.main")
    return await asyncio.create_subprocess_exec(*command, env=os.environ | environment | given, stderr=PIPE)


async def answers_requests(port: int) -> bool:
    """Whether the gateway at this port is there."""
    async with httpx.AsyncClient(timeout=60) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        except httpx.ConnectError:
            return False
