"""The public route of shifts."""

import time
from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from common.app import answer
from common.errors import InvalidQuery, error_responses
from common.peers import KEY_NAME_HEADER
from common.query import query_parameters, read_query
from shifts.errors import ImpossibleDuration, InvalidCertification, KeyReused, UnknownPlace
from shifts.models import LogAnswer, LogQuery
from shifts.service import Shifts

LONGEST_IDEMPOTENCY_KEY = 255

router = APIRouter()

_PARAMETERS = query_parameters(LogQuery)
_PARAMETERS["parameters"].append(
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "Made once per shift by the game server, and sent again with each retry.",
        "schema": {"type": "string", "maxLength": LONGEST_IDEMPOTENCY_KEY},
    }
)


_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "the shift was recorded by an earlier request, which this one repeats",
        "schema": {"const": "true"},
    }
}


@router.post(
    "/log",
    response_model=LogAnswer,
    responses={
        **error_responses(UnknownPlace, InvalidCertification, ImpossibleDuration, KeyReused),
        200: {"headers": _REPLAYED},
    },
    openapi_extra=_PARAMETERS,
)
async def log(request: Request) -> Response:
    """Record a shift that somebody worked, once, however often it is sent."""
    query = read_query(LogQuery, request)
    key = request.headers.get(KEY_NAME_HEADER, "")
    service = cast(Shifts, request.app.state.service)
    is_repeat = await service.log(query, key, _idempotency_key(request), arrived_at=int(time.time()))
    return answer(LogAnswer(), headers={"Idempotent-Replayed": "true"} if is_repeat else None)


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if len(given) > 1:
        raise InvalidQuery("Idempotency-Key is given more than once")
    if not given or not given[0]:
        return None
    if len(given[0]) > LONGEST_IDEMPOTENCY_KEY:
        raise InvalidQuery("Idempotency-Key must have at most 255 characters")
    return given[0]
