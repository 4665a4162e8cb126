"""Serving an app on its port until the process is told to stop."""

import asyncio
import gc
import math
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from common.chassis.limits import ChassisLimits
from common.logs import configure_logging
from common.settings import ProcessSettings
from common.tracing import stop_tracing

IDLE_SECONDS = 130
"""How long a connection is kept between two requests: longer than those in front of us keep theirs (nginx and AWS's
load balancers 60 s, Caddy 120 s). Who closes first decides what a request meets that comes at that moment: a POST
that meets a connection that we closed is a 502."""

_START_FAILED = 3


def run(
    app: FastAPI,
    settings: ProcessSettings,
    name: str,
    *,
    http: type[asyncio.Protocol] | Literal["httptools"] = "httptools",
    drains: bool = True,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is in flight; HTTPS where a certificate is given.

    `http` is the class that serves one connection. One that `drains` still answers callers that keep connections
    open for a while, and tells them to go.
    """
    configure_logging(name, settings.log_level)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # with the freeze, measured to halve the slowest answers
    config = uvicorn_config(app, settings, http=http, tls_cert=tls_cert, tls_key=tls_key)
    server = _Server(config, app, settings.chassis, drains=drains)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_START_FAILED)


def uvicorn_config(
    app: ASGIApp,
    settings: ProcessSettings,
    *,
    http: type[asyncio.Protocol] | Literal["httptools"] = "httptools",
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> uvicorn.Config:
    """How uvicorn serves an app."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=http,
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.chassis.finish_seconds),
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )


class _Server(uvicorn.Server):
    """Stops only when its callers have gone, so that no request meets a connection that closes.

    A request that does could not be sent again, unless it is safe to repeat: nobody would know whether it
    took effect.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, limits: ChassisLimits, *, drains: bool) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = limits.drain_seconds if drains else 0.0
        self._trace_seconds = limits.trace_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.health.is_draining = True
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        deadline = time.monotonic() + self._drain_seconds
        while (  # noqa: ASYNC110 - uvicorn has no event for it
            self.server_state.connections and time.monotonic() < deadline and not self.force_exit
        ):
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
        stop_tracing(self._trace_seconds)
