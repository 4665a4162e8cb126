"""The public route of shifts."""

import time
from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from common.app import answer
from common.errors import KeyReused, error_responses
from common.idempotency import IDEMPOTENCY_PARAMETER, REPLAYED, REPLAYED_RESPONSE, read_idempotency_key
from common.outgoing.headers import KEY_NAME_HEADER
from common.query import query_parameters, read_query
from shifts.errors import ImpossibleDuration, InvalidCertification, UnknownPlace
from shifts.models import LogAnswer, LogQuery
from shifts.service import Shifts

router = APIRouter()


@router.post(
    "/log",
    response_model=LogAnswer,
    responses={
        **error_responses(UnknownPlace, InvalidCertification, ImpossibleDuration, KeyReused),
        200: REPLAYED_RESPONSE,
    },
    openapi_extra={"parameters": [*query_parameters(LogQuery)["parameters"], IDEMPOTENCY_PARAMETER]},
)
async def log(request: Request) -> Response:
    """Record a shift that somebody worked, once, however often it is sent."""
    query = read_query(LogQuery, request)
    key = request.headers.get(KEY_NAME_HEADER, "")
    service = cast(Shifts, request.app.state.service)
    is_repeat = await service.log(query, key, read_idempotency_key(request), arrived_at=int(time.time()))
    return answer(LogAnswer(), headers=REPLAYED if is_repeat else None)
