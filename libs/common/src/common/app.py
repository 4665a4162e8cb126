"""The chassis: one way to build a service, so that each has the same errors, health, metrics and logs."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import pymongo
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from pydantic import BaseModel
from pymongo.errors import PyMongoError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import metrics
from common.background import background
from common.bus import Bus
from common.consumer import Consumer
from common.errors import BrokenOff, ServiceError, Unavailable
from common.events import new_id
from common.group import load_group
from common.logs import key_name, request_id
from common.mongo import Database, connect, is_outage, wait_until_migrated
from common.outbox import Outbox
from common.outgoing.headers import KEY_NAME_HEADER, REQUEST_ID_HEADER, TOKEN_HEADER
from common.outgoing.local import Apps
from common.server import run
from common.service import Chassis, S, Service
from common.settings import read_settings
from common.tracing import TRACEPARENT_HEADER, Tracer, make_tracer

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


_TOKEN = TOKEN_HEADER.encode()
_KEY_NAME = KEY_NAME_HEADER.encode()
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_TRACEPARENT = TRACEPARENT_HEADER.encode()


def create_app(service: Service[S], settings: S, apps: Apps | None = None) -> FastAPI:
    """A service: its routes, its use cases and its event handlers on the chassis.

    A route function takes the Request and answers a Response; FastAPI documents it, and routes it only where
    its path has parameters (see Boundary). What the service opens is `app.state.service` in routes. `apps` are the
    other services of this process, if any.
    """
    name = service.name

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        group = load_group(settings.config)
        async with AsyncExitStack() as stack:
            client, database = connect(settings, name)
            stack.push_async_callback(client.close)
            await wait_until_migrated(database, service.all_collections, settings.storage)
            bus = Bus(settings, name)
            outbox = Outbox(database)
            stack.push_async_callback(bus.close)
            await stack.enter_async_context(background(bus.run))
            if service.publishes:
                stack.push_async_callback(_flush, outbox, bus, settings.chassis.flush_seconds)
                await stack.enter_async_context(background(partial(outbox.relay, bus)))
            chassis = Chassis(settings, group, database, outbox, apps or {}, stack)
            app.state.service = await stack.enter_async_context(service.open(chassis))
            if service.handles and service.hears(group):
                consumer = Consumer(
                    bus, name, database, service.handles, app.state.service, settings.consumer, tracer
                )
                await stack.enter_async_context(background(consumer.run))
            app.state.health = Health(database, bus, settings.storage.ping_seconds)
            yield

    endpoints = {
        (method, route.path): cast(Endpoint, route.endpoint)
        for router in service.routers
        for route in router.routes
        if isinstance(route, APIRoute) and "{" not in route.path
        for method in route.methods or ()
    }
    tracer = make_tracer(settings, name)
    token = settings.internal_token.get_secret_value()
    door = partial(Boundary, name=name, token=token, endpoints=endpoints, tracer=tracer)
    app = bare_app(name, lifespan, door)
    for router in service.routers:
        app.include_router(router)
    add_health_routes(app)
    app.add_route("/metrics", _metrics)
    return app


def serve(service: Service[Any]) -> None:
    """Run a service as a process of its own, until SIGTERM or Ctrl-C."""
    settings = read_settings(service.settings)
    run(create_app(service, settings), settings, service.name)


class App(FastAPI):
    """A FastAPI app whose HTTP requests come to `door` first, which gets what FastAPI would do to call it.

    Measured, the layers that FastAPI puts around every request cost as much as all of a door.
    """

    def __init__(self, door: Callable[[ASGIApp], ASGIApp], **options: Any) -> None:
        super().__init__(**options)
        self._door = door(super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope["app"] = self
            await self._door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def bare_app(
    title: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    door: Callable[[ASGIApp], ASGIApp],
    *,
    openapi_url: str | None = "/openapi.json",
) -> FastAPI:
    """An App that answers every error in the contract's shape."""
    app = App(
        door,
        title=title,
        lifespan=lifespan,
        openapi_url=openapi_url,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # FastAPI's own would tell whole paths, which may hold an application's token.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(PyMongoError, _on_mongo_error)
    app.add_exception_handler(Exception, _on_unexpected_error)
    return app


def answer(model: BaseModel, *, headers: Mapping[str, str] | None = None) -> Response:
    """The model as a JSON answer, to the character: no spaces, absent fields left out."""
    body = model.model_dump_json(by_alias=True, exclude_none=True)
    return Response(body, media_type="application/json", headers=headers)


@dataclass
class Health:
    """What `/readyz` looks at."""

    database: Database
    bus: Bus | None
    ping_seconds: float
    is_draining: bool = False

    async def report(self) -> tuple[bool, dict[str, str]]:
        """Whether requests can be served, and the state of each part.

        Without NATS a service still serves: events wait in the outbox. That is reported, and is not a
        reason to send it no requests.
        """
        try:
            with pymongo.timeout(self.ping_seconds):
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


class ResponseWatch:
    """Passes on what an app sends, notes how far its response is, and answers for an app that fails.

    Usable as the app's `send`. `status` is 500 until a response starts.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_started = False
        self._is_complete = False
        self.status = 500

    async def __call__(self, message: Message) -> None:
        """ASGI's `send`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._has_started = True
        else:
            self._is_complete = not message.get("more_body", False)
        await self._send(message)

    async def answer_failure(self, scope: Scope, receive: Receive, request: str) -> None:
        """Log the exception being handled, and answer 500 with the request id where nothing was sent yet.

        Raises BrokenOff in the middle of a response: nothing may follow what was sent, and the caller must not
        take it for the whole.
        """
        logger.exception("unexpected error")
        if not self._has_started:
            await internal_error(request)(scope, receive, self)
        elif not self._is_complete:
            raise BrokenOff


class Boundary:
    """The outermost layer of a service: who calls, under which request id, in which trace, and how it went.

    Refuses calls without the internal token, but for health and metrics. An error that nobody expected is
    logged with its stack, and answered without it.

    `endpoints` are called from here: measured, FastAPI's own routing costs five times the rest of this layer.
    """

    OPEN = frozenset({"/healthz", "/readyz", "/metrics"})

    def __init__(
        self,
        app: ASGIApp,
        *,
        name: str,
        token: str,
        endpoints: Mapping[tuple[str, str], Endpoint],
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._name = name
        self._token = token.encode()
        self._endpoints = endpoints
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for HTTP only."""
        headers = dict(scope["headers"])
        method, path = scope["method"], scope["path"]
        if path not in self.OPEN and not hmac.compare_digest(headers.get(_TOKEN, b""), self._token):
            await JSONResponse({"status": "error", "message": "invalid token"}, 401)(scope, receive, send)
            return
        request = headers.get(_REQUEST_ID, b"").decode("latin-1") or new_id()
        request_id.set(request)
        key_name.set(headers.get(_KEY_NAME, b"").decode("latin-1") or None)
        span = None
        if self._tracer is not None and _TRACEPARENT in headers:
            span = self._tracer.start_request(headers[_TRACEPARENT].decode("latin-1"))
        started = time.perf_counter()
        watch = ResponseWatch(send)
        endpoint = self._endpoints.get((method, path))
        try:
            if endpoint is None:
                await self._app(scope, receive, watch)
            else:
                response = await _respond(endpoint, Request(scope, receive))
                await response(scope, receive, watch)
        except Exception:
            await watch.answer_failure(scope, receive, request)
        finally:
            route = path if endpoint else getattr(scope.get("route"), "path", "other")
            count, duration = _metrics_of(self._name, method, route, watch.status)
            count.inc()
            duration.observe(time.perf_counter() - started)
            if span is not None:
                span.end(method, route, watch.status)


async def _respond(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint(request)
    except ServiceError as error:
        return await _on_service_error(request, error)
    except PyMongoError as error:
        return await _on_mongo_error(request, error)


@lru_cache(4096)
def _metrics_of(service: str, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return (
        metrics.REQUESTS.labels(service, method, route, status, ""),
        metrics.REQUEST_SECONDS.labels(service, route),
    )


def internal_error(request: str) -> Response:
    """500: the request id leads to the log line that tells more."""
    return JSONResponse({"status": "error", "message": "internal error", "request_id": request}, 500)


async def _on_unexpected_error(_: Request, __: Exception) -> Response:
    # FastAPI raises the exception again behind this answer, and the door logs it.
    return internal_error(request_id.get() or "")


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


async def _flush(outbox: Outbox, bus: Bus, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await outbox.flush(bus)
    except Exception as error:
        logger.info("events stay in the outbox for the next start: %s", type(error).__name__)
