"""One description of all public routes: `/openapi.json` for programs, `/docs` for people."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from common.errors import ServiceError
from gateway.routes import Route, Routes
from gateway.upstreams import Outgoing, Upstreams

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_SECONDS_TO_DESCRIBE = 2.0
_KEEP_SECONDS = 60.0
_KEEP_INCOMPLETE_SECONDS = 2.0

_ERROR = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"const": "error"},
        "message": {"type": "string", "description": "for developers"},
        "discord": {"type": "string", "description": "fit to show in a Discord channel"},
    },
}
_KEY = {
    "key in the query": {"type": "apiKey", "in": "query", "name": "key"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_ERRORS_OF_ALL = {
    "400": "a parameter is absent, malformed or repeated",
    "429": "too many requests; Retry-After says when to try again",
    "503": "what stands behind does not answer; try again",
}
_ERRORS_WITH_KEY = {
    "401": "the key is missing, unknown, expired or revoked",
    "403": "the key is not for this",
}


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
            request = Outgoing("GET", "/openapi.json", seconds=_SECONDS_TO_DESCRIBE)
            answer = await self._upstreams.send(service, request)
            document: Json = json.loads(answer.body) if answer.status == 200 else {}
        except (ServiceError, ValueError) as error:
            logger.warning("%s does not describe itself: %s", service, type(error).__name__)
            return {}
        return document


def merge(routes: Routes, documents: Mapping[str, Json]) -> Json:
    """One OpenAPI document of the public routes, from those of the services by name."""
    schemas: Json = {"Error": _ERROR}
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
    errors = _ERRORS_OF_ALL if route.anyone else _ERRORS_OF_ALL | _ERRORS_WITH_KEY
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {status: {"description": text, "content": content} for status, text in errors.items()}
    responses |= operation.get("responses", {"200": {"description": "success"}})
    return operation | {
        "tags": [route.service],
        "x-callers": _callers(route),
        "parameters": parameters,
        "responses": dict(sorted(responses.items())),
        "security": [] if route.anyone else [{name: []} for name in _KEY],
    }


def _callers(route: Route) -> str:
    if route.anyone:
        return "anyone, without a key"
    if route.roblox_only:
        return "Roblox servers only, with a key of scope roblox"
    return f"a key of scope {' or '.join(sorted(route.scopes))}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Callboard API</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2430; background: #fff }}
h2 {{ font: 600 1.1rem/1.4 ui-monospace, monospace; margin-top: 2.5rem; padding-top: 1rem;
  border-top: 1px solid #d5dae1 }}
code, td:first-child {{ font-family: ui-monospace, monospace; font-size: .9em }}
table {{ border-collapse: collapse; width: 100%; margin: .5rem 0 1rem }}
th {{ text-align: left; font-weight: 600 }}
th, td {{ padding: .25rem .75rem .25rem 0; vertical-align: top; border-bottom: 1px solid #eceff3 }}
.method {{ color: #0b6e4f }}
.callers {{ color: #5b6675 }}
</style>
</head>
<body>
<h1>Callboard API</h1>
<p>Send your key as the header <code>Authorization: Bearer KEY</code>, as <code>x-api-key: KEY</code>, or as the
query parameter <code>key</code>. Errors are <code>{{"status":"error","message":...}}</code>; where a Discord user
would read it, <code>discord</code> holds a text for them. For programs: <a href="openapi.json">openapi.json</a>.</p>
{routes}
</body>
</html>
"""


def page(document: Json) -> str:
    """The description as a page that needs nothing from elsewhere."""
    schemas = document["components"]["schemas"]
    sections = (
        _section(method, path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return _PAGE.format(routes="\n".join(sections))


def _section(method: str, path: str, operation: Json, schemas: Json) -> str:
    parts = [
        f'<h2><span class="method">{escape(method.upper())}</span> {escape(path)}</h2>',
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>",
        f'<p class="callers">Who may call: {escape(operation["x-callers"])}.</p>',
        _table(("parameter", "in", "", ""), map(_parameter_row, operation["parameters"])),
        _table(("body", "", "", ""), _body_rows(operation, schemas)),
        _table(
            ("answer", "", ""),
            (
                (status, answer.get("description", ""), ", ".join(_fields(answer, schemas)))
                for status, answer in operation["responses"].items()
            ),
        ),
    ]
    return "\n".join(part for part in parts if part)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    if not lines:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _parameter_row(parameter: Json) -> tuple[str, ...]:
    need = "required" if parameter.get("required") else "optional"
    return parameter["name"], parameter["in"], need, _type(parameter.get("schema", {}), parameter)


def _body_rows(operation: Json, schemas: Json) -> Iterator[tuple[str, ...]]:
    body = operation.get("requestBody", {})
    for media_type, content in body.get("content", {}).items():
        schema = _resolve(content.get("schema", {}), schemas)
        for name, field in schema.get("properties", {}).items():
            need = "required" if name in schema.get("required", ()) else "optional"
            yield name, media_type, need, _type(_resolve(field, schemas), field)


def _fields(answer: Json, schemas: Json) -> Iterator[str]:
    for media_type, content in answer.get("content", {}).items():
        schema = _resolve(content.get("schema", {}), schemas)
        yield from schema.get("properties", {}) or [media_type]


def _type(schema: Json, described: Json) -> str:
    choices = [schema, *schema.get("anyOf", ())]
    names = [str(one["type"]) for one in choices if one.get("type") not in (None, "null")]
    return ": ".join(filter(None, (" or ".join(names), described.get("description", ""))))


def _resolve(schema: Json, schemas: Json) -> Json:
    reference = schema.get("$ref")
    resolved: Json = schemas.get(reference.rpartition("/")[2], {}) if reference else schema
    return resolved


def add_docs_routes(app: FastAPI) -> None:
    """`/openapi.json` and `/docs`; `app.state.docs` is what they show."""

    async def openapi(request: Request) -> Response:
        return JSONResponse(await request.app.state.docs.document())

    async def docs(request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        document = await request.app.state.docs.document()
        return HTMLResponse(page(document), headers={"Content-Security-Policy": policy})

    app.add_route("/openapi.json", openapi)
    app.add_route("/docs", docs)
