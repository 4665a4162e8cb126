"""The public routes of applications."""

import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from applications.errors import AlreadyRanked, ApplicationNotFound, BodyTooLarge, NotRanked
from applications.models import Answers, ApproveAnswer, ApproveQuery, UploadAnswer, UploadQuery
from applications.service import Applications
from common.app import answer
from common.errors import InvalidQuery, KeyReused, StillRunning, UserNotFound, error_responses
from common.idempotency import IDEMPOTENCY_PARAMETER, REPLAYED, REPLAYED_RESPONSE, read_attempt
from common.query import query_parameters, read_query, validate

LARGEST_BODY = 192 * 1024
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_TEXT_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
    "X-Robots-Tag": "noindex",
    "Referrer-Policy": "no-referrer",
    "Content-Disposition": "inline",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}

router = APIRouter()


@router.post(
    "/application/upload",
    response_model=UploadAnswer,
    responses={**error_responses(BodyTooLarge, KeyReused, StillRunning), 200: REPLAYED_RESPONSE},
    openapi_extra={
        "parameters": [*query_parameters(UploadQuery)["parameters"], IDEMPOTENCY_PARAMETER],
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": Answers.model_json_schema()} for kind in (_JSON, _FORM, _MULTIPART)},
        },
    },
)
async def upload(request: Request) -> Response:
    """Take an application, and tell the URL where its text can be read."""
    query = read_query(UploadQuery, request)
    answers = validate(Answers, await _read_body(request))
    url, is_repeat = await _service(request).submit(query.id, answers, read_attempt(request, query, answers))
    return answer(UploadAnswer(url=url), headers=REPLAYED if is_repeat else None)


@router.get(
    "/applications/{token}",
    response_class=PlainTextResponse,
    responses=error_responses(ApplicationNotFound),
    openapi_extra={
        "parameters": [
            {
                "name": "token",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
            }
        ]
    },
)
async def text(request: Request) -> Response:
    """The text of an application, for whoever has its URL, until it expires."""
    return PlainTextResponse(
        await _service(request).text(request.path_params["token"]), headers=_TEXT_HEADERS
    )


@router.post(
    "/application/approve",
    response_model=ApproveAnswer,
    responses={**error_responses(AlreadyRanked, UserNotFound, NotRanked, KeyReused), 200: REPLAYED_RESPONSE},
    openapi_extra={"parameters": [*query_parameters(ApproveQuery)["parameters"], IDEMPOTENCY_PARAMETER]},
)
async def approve(request: Request) -> Response:
    """Make a user a trainee; an upload is not needed."""
    query = read_query(ApproveQuery, request)
    is_repeat = await _service(request).approve(query.id, query.moderator, read_attempt(request, query))
    return answer(ApproveAnswer(), headers=REPLAYED if is_repeat else None)


class _LimitedRequest(Request):
    """A request whose body is refused as soon as it is too large, whatever its headers say."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        left = LARGEST_BODY
        async with aclosing(super().stream()) as chunks:
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    raise BodyTooLarge(LARGEST_BODY)
                yield chunk


async def _read_body(request: Request) -> dict[str, Any]:
    """The body's fields. Raises InvalidQuery and BodyTooLarge."""
    limited = _LimitedRequest(request.scope, request.receive)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == _JSON:
            return _fields_of_object(json.loads(await limited.body()))
        if kind == _FORM:
            text = (await limited.body()).decode()
            return _fields_of_form(parse_qsl(text, keep_blank_values=True, errors="strict"))
        if kind == _MULTIPART:
            async with limited.form() as form:
                return _fields_of_form(form.multi_items())
    except (ValueError, RecursionError, HTTPException):
        raise InvalidQuery(f"body is not valid {kind}") from None
    raise InvalidQuery(f"content type must be {_JSON}, {_FORM} or {_MULTIPART}")


def _fields_of_object(body: Any) -> dict[str, Any]:
    if body == []:  # how Luau writes an empty table
        return {}
    if not isinstance(body, dict):
        raise InvalidQuery("body must be a JSON object")
    return body


def _fields_of_form(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields and name in Answers.model_fields:
            raise InvalidQuery(f"{name} is given more than once")
        fields[name] = value
    return fields


def _service(request: Request) -> Applications:
    return cast(Applications, request.app.state.service)
