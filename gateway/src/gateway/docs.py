"""One description of all public routes: `/openapi.json` for programs, `/docs` for people."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from common.errors import ERROR_SCHEMA, ServiceError, error_responses
from common.outgoing.errors import ServiceLost, ServiceSlow
from common.outgoing.message import Outgoing
from gateway.errors import (
    AccessDenied,
    BodyTooLarge,
    BodyTooSlow,
    HeadTooLarge,
    MissingKey,
    TooManyRequests,
    UnsupportedEncoding,
    WrongKey,
)
from gateway.page import ERROR_CONTENT, Json, page
from gateway.routes import Route, Routes
from gateway.upstreams import Upstreams

logger = logging.getLogger(__name__)

_SECONDS_TO_DESCRIBE = 2.0
_KEEP_SECONDS = 60.0
_KEEP_INCOMPLETE_SECONDS = 2.0

_KEY = {
    "key-parameter": {"type": "apiKey", "in": "query", "name": "key"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_REQUEST_ID = {
    "X-Request-Id": {
        "description": "names this request in the logs",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }
}
_NOT_STORED = {
    "Cache-Control": {
        "description": "no cache may keep this answer, nor an error in its place",
        "required": True,
        "schema": {"type": "string", "pattern": "no-store"},
    }
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "in how many seconds to try again",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_RATE_LIMIT = {
    "RateLimit-Policy": {
        "description": "how many requests the key may make in how many seconds",
        "schema": {"type": "string", "pattern": '^"requests";q=[0-9]+;w=[0-9]+$'},
    },
    "RateLimit": {
        "description": "how many requests may still come, for how many seconds",
        "schema": {"type": "string", "pattern": '^"requests";r=[0-9]+;t=[0-9]+$'},
    },
}


def _texts(responses: Mapping[int | str, Json]) -> dict[str, str]:
    return {str(status): response["description"] for status, response in responses.items()}


_ERRORS_OF_ALL = _texts(
    error_responses(
        BodyTooSlow,
        BodyTooLarge,
        UnsupportedEncoding,
        TooManyRequests,
        HeadTooLarge,
        ServiceLost,
        ServiceSlow,
    )
) | {"500": "an error that nobody expected; `request_id` leads the operator to its cause"}
_ERRORS_WITH_KEY = _texts(error_responses(MissingKey, WrongKey, AccessDenied))


class Docs:
    """The merged description, kept for a minute."""

    def __init__(self, routes: Routes, upstreams: Upstreams) -> None:
        self._routes = routes
        self._upstreams = upstreams
        self._document: Json = {}
        self._keep_until = float("-inf")
        self._lock = asyncio.Lock()

    async def document(self) -> Json:
        """OpenAPI of exactly the public routes; those of a service that is away have no more than a line."""
        async with self._lock:
            if time.monotonic() >= self._keep_until:
                services = sorted({route.service for route in self._routes.all})
                found = await asyncio.gather(*map(self._describe, services))
                self._document = merge(self._routes, dict(zip(services, found, strict=True)))
                keep = _KEEP_SECONDS if all(found) else _KEEP_INCOMPLETE_SECONDS
                self._keep_until = time.monotonic() + keep
            return self._document

    async def _describe(self, service: str) -> Json:
        try:
            request = Outgoing("GET", "/openapi.json", seconds=_SECONDS_TO_DESCRIBE, repeatable=True)
            answer = await self._upstreams.send(service, request)
            document: Json = json.loads(answer.body) if answer.status == 200 else {}
        except (ServiceError, ValueError) as error:
            logger.warning("%s does not describe itself: %s", service, type(error).__name__)
            return {}
        return document


def merge(routes: Routes, documents: Mapping[str, Json]) -> Json:
    """One OpenAPI document of the public routes, from those of the services by name."""
    schemas: Json = {"Error": ERROR_SCHEMA}
    paths: Json = {}
    for route in routes.all:
        document = documents.get(route.service, {})
        operation = document.get("paths", {}).get(route.path, {}).get(route.method.lower())
        if operation is None:
            operation = {"description": f"{route.service} does not describe this route at present."}
        else:
            operation = _adopt(operation, route.service, document, schemas)
        paths.setdefault(route.path, {})[route.method.lower()] = _complete(operation, route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callboard", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _KEY},
    }


def _adopt(part: Any, service: str, document: Json, schemas: Json) -> Any:
    """The part with its references renamed, once what they refer to is in `schemas` under the new name."""
    if isinstance(part, list):
        return [_adopt(one, service, document, schemas) for one in part]
    if not isinstance(part, dict):
        return part
    if part == ERROR_SCHEMA:
        return {"$ref": "#/components/schemas/Error"}
    adopted = {name: _adopt(value, service, document, schemas) for name, value in part.items()}
    if isinstance(reference := part.get("$ref"), str):
        name = reference.rpartition("/")[2]
        own_name = f"{service}.{name}"
        if own_name not in schemas:
            schemas[own_name] = {}  # a schema may refer to itself
            schema = document.get("components", {}).get("schemas", {}).get(name, {})
            schemas[own_name] = _adopt(schema, service, document, schemas)
        adopted["$ref"] = f"#/components/schemas/{own_name}"
    return adopted


def _complete(operation: Json, route: Route) -> Json:
    """The operation with what the gateway knows: who may call, and what it answers itself."""
    parameters = list(operation.get("parameters", ()))
    known = {(one["in"], one["name"].lower()) for one in parameters}
    for name in re.findall(r"\{(\w+)\}", route.path):
        if ("path", name) not in known:
            schema = {"type": "string"}
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if route.roblox_only and ("header", "roblox-id") not in known:
        parameters.append(
            {
                "name": "Roblox-Id",
                "in": "header",
                "required": True,
                "description": "the place, as Roblox itself sends it; must equal the parameter place",
                "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
            }
        )
    if route.idempotent and ("header", "idempotency-key") not in known:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "chosen by the caller, new for each request that is not a repetition",
                "schema": {"type": "string"},
            }
        )
    return operation | {
        "tags": [route.service],
        "x-callers": _callers(route),
        "parameters": parameters,
        "responses": _responses(operation.get("responses", {"200": {"description": "success"}}), route),
        "security": [] if route.anyone else [{name: []} for name in _KEY],
    }


def _responses(theirs: Json, route: Route) -> Json:
    """The responses of the service, and those of the gateway itself."""
    responses = dict(theirs)
    errors = _ERRORS_OF_ALL if route.anyone else _ERRORS_OF_ALL | _ERRORS_WITH_KEY
    for status, text in errors.items():
        their_text = responses.get(status, {}).get("description", "")
        both = their_text if text in their_text else "; or ".join(filter(None, (text, their_text)))
        responses[status] = {"description": both, "content": ERROR_CONTENT}
    rate_limit = {} if route.anyone else _RATE_LIMIT
    not_stored = _NOT_STORED if route.method == "GET" and not route.anyone else {}
    for status, headers in {
        "200": _REQUEST_ID | rate_limit | not_stored,
        "429": _REQUEST_ID | rate_limit | _RETRY_AFTER,
        "503": _RETRY_AFTER,
        "504": _RETRY_AFTER,
    }.items():
        if response := responses.get(status):
            responses[status] = response | {"headers": response.get("headers", {}) | headers}
    return dict(sorted(responses.items()))


def _callers(route: Route) -> str:
    if route.anyone:
        return "anyone, without a key"
    if route.roblox_only:
        return "Roblox servers only, with a key of scope roblox"
    return f"a key of scope {' or '.join(sorted(route.scopes))}"


def add_docs_routes(app: FastAPI) -> None:
    """`/openapi.json` and `/docs`; `app.state.docs` is what they show."""

    async def openapi(request: Request) -> Response:
        return JSONResponse(await request.app.state.docs.document())

    async def docs(request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        errors = dict(sorted((_ERRORS_OF_ALL | _ERRORS_WITH_KEY).items()))
        text = page(await request.app.state.docs.document(), errors)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    app.add_route("/openapi.json", openapi)
    app.add_route("/docs", docs)
