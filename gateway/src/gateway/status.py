"""`/status`: whether each service is up, for status pages. It tells no more, as anyone may ask."""

import asyncio
import time

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from common.errors import ServiceError
from common.outgoing.message import Outgoing
from gateway.routes import Routes
from gateway.upstreams import Upstreams

_SECONDS_TO_ANSWER = 2.0
_KEEP_SECONDS = 5.0


class Status:
    """Which services are ready, found out every few seconds at most, however many ask."""

    def __init__(self, routes: Routes, upstreams: Upstreams) -> None:
        self._services = sorted({route.service for route in routes.all})
        self._upstreams = upstreams
        self._is_up: dict[str, bool] = {}
        self._keep_until = float("-inf")
        self._lock = asyncio.Lock()

    async def services(self) -> dict[str, bool]:
        """Whether each service is up, by name."""
        async with self._lock:
            if time.monotonic() >= self._keep_until:
                found = await asyncio.gather(*map(self._answers, self._services))
                self._is_up = dict(zip(self._services, found, strict=True))
                self._keep_until = time.monotonic() + _KEEP_SECONDS
            return self._is_up

    async def _answers(self, service: str) -> bool:
        try:
            request = Outgoing("GET", "/readyz", seconds=_SECONDS_TO_ANSWER, repeatable=True)
            return (await self._upstreams.send(service, request)).status == 200
        except ServiceError:
            return False


def add_status_route(app: FastAPI) -> None:
    """`/status`: 200 while all services are up, 503 otherwise; reads `app.state.status`."""

    async def status(request: Request) -> Response:
        found: Status = request.app.state.status
        is_up = await found.services()
        all_are_up = all(is_up.values())
        services = {service: "up" if up else "down" for service, up in is_up.items()}
        return JSONResponse(
            {"status": "up" if all_are_up else "degraded", "services": services}, 200 if all_are_up else 503
        )

    app.add_route("/status", status)
