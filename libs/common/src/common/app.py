"""The chassis: one way to build a service, so that each has the same errors, health, metrics and logs."""

import asyncio
import gc
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import uvicorn
from bson import ObjectId
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from pymongo.errors import PyMongoError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import metrics
from common.bus import Bus, Consumer, Handler
from common.errors import ServiceError, Unavailable
from common.events import Event
from common.group import Group, load_group
from common.logs import configure_logging, key_name, request_id
from common.mongo import Collection, Database, check_migrated, connect, is_outage
from common.outbox import Outbox
from common.peers import KEY_NAME_HEADER, REQUEST_ID_HEADER, TOKEN_HEADER, Apps, Peer
from common.settings import Settings

logger = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Chassis:
    """What a service builds on; handed to its `open_service` when it starts."""

    settings: Settings
    group: Group
    database: Database
    outbox: Outbox
    apps: Apps
    stack: AsyncExitStack

    def peer(self, name: str, urls: str) -> Peer:
        """Another service; closed with this one."""
        peer = Peer(name, urls, self.settings.internal_token.get_secret_value(), self.apps)
        self.stack.push_async_callback(peer.close)
        return peer

    async def background(self, work: Work) -> None:
        """Run `work` for as long as the service runs; it starts again should it fail."""
        await self.stack.enter_async_context(background(work))


OpenService = Callable[[Chassis], AbstractAsyncContextManager[Any]]


def create_app(
    name: str,
    settings: Settings,
    *,
    routers: Sequence[APIRouter],
    open_service: OpenService,
    collections: Sequence[Collection],
    handlers: Mapping[type[Event], Handler] | None = None,
    apps: Apps | None = None,
) -> FastAPI:
    """A service: its routes, its use cases and its event handlers on the chassis.

    `open_service` is entered when the service starts; what it yields is `app.state.service` in routes, and
    the first argument of each handler. `collections` are checked at the start (see `migrate`). `apps` are
    the other services of this process, if any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        group = load_group(settings.config)
        async with AsyncExitStack() as stack:
            client, database = connect(settings, name)
            stack.push_async_callback(client.close)
            await check_migrated(database, collections)
            bus = Bus(settings, name)
            outbox = Outbox(database)
            stack.push_async_callback(bus.close)
            await stack.enter_async_context(background(bus.run))
            stack.push_async_callback(_flush, outbox, bus)
            await stack.enter_async_context(background(partial(outbox.relay, bus)))
            await stack.enter_async_context(background(outbox.observe))
            chassis = Chassis(settings, group, database, outbox, apps or {}, stack)
            app.state.service = await stack.enter_async_context(open_service(chassis))
            if handlers:
                consumer = Consumer(bus, name, database, handlers, app.state.service)
                await stack.enter_async_context(background(consumer.run))
            app.state.health = Health(database, bus)
            yield
            app.state.health.is_draining = True

    app = bare_app(name, lifespan)
    for router in routers:
        app.include_router(router)
    add_health_routes(app)
    app.add_route("/metrics", _metrics)
    app.add_middleware(Boundary, name=name, token=settings.internal_token.get_secret_value())
    return app


def bare_app(
    title: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    *,
    openapi_url: str | None = "/openapi.json",
) -> FastAPI:
    """A FastAPI app that answers every error in the contract's shape."""
    app = FastAPI(
        title=title,
        lifespan=lifespan,
        openapi_url=openapi_url,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(PyMongoError, _on_mongo_error)
    return app


def answer(model: BaseModel, *, headers: Mapping[str, str] | None = None) -> Response:
    """The model as a JSON answer, to the character: no spaces, absent fields left out."""
    body = model.model_dump_json(by_alias=True, exclude_none=True)
    return Response(body, media_type="application/json", headers=headers)


def run(
    app: ASGIApp,
    settings: Settings,
    name: str,
    *,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is in flight; HTTPS where a certificate is given."""
    configure_logging(name, settings.log_level)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # with the freeze, measured to halve the slowest answers
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )


@dataclass
class Health:
    """What `/readyz` looks at."""

    database: Database
    bus: Bus | None
    is_draining: bool = False

    async def report(self) -> tuple[bool, dict[str, str]]:
        """Whether requests can be served, and the state of each part.

        Without NATS a service still serves: events wait in the outbox. That is reported, and is not a
        reason to send it no requests.
        """
        try:
            with pymongo.timeout(1):
                await self.database.command("ping")
            mongodb = "up"
        except PyMongoError:
            mongodb = "down"
        state = {"mongodb": mongodb}
        if self.bus is not None:
            state["nats"] = "up" if self.bus.is_connected else "down"
        return mongodb == "up" and not self.is_draining, state


def add_health_routes(app: FastAPI) -> None:
    """`/healthz`: the process is alive. `/readyz`: it can serve requests."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        health: Health = request.app.state.health
        ready, state = await health.report()
        status = "draining" if health.is_draining else "ready" if ready else "not ready"
        return JSONResponse({"status": status, **state}, 200 if ready else 503)

    app.add_route("/healthz", healthz)
    app.add_route("/readyz", readyz)


class Boundary:
    """The outermost layer of a service: who calls, under which request id, and how it went.

    Refuses calls without the internal token, but for health and metrics. An error that nobody expected is
    logged with its stack, and answered without it.
    """

    OPEN = frozenset({"/healthz", "/readyz", "/metrics"})

    def __init__(self, app: ASGIApp, *, name: str, token: str) -> None:
        self._app = app
        self._name = name
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] not in self.OPEN and not hmac.compare_digest(
            headers.get(TOKEN_HEADER.encode(), b""), self._token
        ):
            await JSONResponse({"status": "error", "message": "invalid token"}, 401)(scope, receive, send)
            return
        request = headers.get(REQUEST_ID_HEADER.encode(), b"").decode("latin-1") or str(ObjectId())
        request_id.set(request)
        key_name.set(headers.get(KEY_NAME_HEADER.encode(), b"").decode("latin-1") or None)
        started = time.perf_counter()
        status = 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except Exception:
            logger.exception("unexpected error")
            await internal_error(request)(scope, receive, send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics.REQUESTS.labels(self._name, scope["method"], route, status).inc()
            metrics.REQUEST_SECONDS.labels(self._name, route).observe(time.perf_counter() - started)


def internal_error(request: str) -> Response:
    """500: the request id leads to the log line that tells more."""
    return JSONResponse({"status": "error", "message": "internal error", "request_id": request}, 500)


async def _on_service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for this class only
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    message = {404: "not found", 405: "method not allowed"}.get(error.status_code, error.detail.lower())
    return JSONResponse({"status": "error", "message": message}, error.status_code, headers=error.headers)


async def _on_mongo_error(request: Request, error: Exception) -> Response:
    if not is_outage(error):
        raise error
    logger.warning("MongoDB is away: %s", type(error).__name__)
    return await _on_service_error(request, Unavailable("database"))


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _flush(outbox: Outbox, bus: Bus) -> None:
    try:
        async with asyncio.timeout(2):
            await outbox.flush(bus)
    except Exception as error:
        logger.info("events stay in the outbox for the next start: %s", type(error).__name__)


@asynccontextmanager
async def background(work: Work) -> AsyncIterator[None]:
    """Run `work` while the context is open; it starts again should it fail."""

    async def keep_running() -> None:
        while True:
            try:
                return await work()
            except Exception:
                logger.exception("a background task failed; it starts again")
                await asyncio.sleep(1)

    task = asyncio.create_task(keep_running())
    try:
        yield
    finally:
        while not task.done():  # before Python 3.12, asyncio.wait_for, which pymongo uses, can lose a cancellation
            task.cancel()
            await asyncio.wait([task], timeout=1)
