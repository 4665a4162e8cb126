"""The public routes of certifications."""

from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from certifications.errors import AlreadyHeld, NotHeld, RankTooLow, UnknownCertification
from certifications.models import ChangeAnswer, ChangeQuery, Done
from certifications.service import Certifications
from common.app import answer
from common.errors import KeyReused, UserNotFound, error_responses
from common.idempotency import IDEMPOTENCY_PARAMETER, REPLAYED, REPLAYED_RESPONSE, read_attempt
from common.query import query_parameters, read_query
from common.text import escape_for_discord

router = APIRouter()

_PARAMETERS = query_parameters(ChangeQuery)
_PARAMETERS["parameters"].append(IDEMPOTENCY_PARAMETER)


@router.post(
    "/certification/grant",
    response_model=ChangeAnswer,
    responses={
        **error_responses(UnknownCertification, AlreadyHeld, RankTooLow, UserNotFound, KeyReused),
        200: dict(REPLAYED_RESPONSE),
    },
    openapi_extra=_PARAMETERS,
)
async def grant(request: Request) -> Response:
    """Grant a certification to a member whose rank allows it."""
    query = read_query(ChangeQuery, request)
    done = await _service(request).grant(query, read_attempt(request, query))
    name, code = escape_for_discord(done.username), escape_for_discord(done.code)
    return _answer(done, f"Successfully granted **{name}** the **{code}** certification.")


@router.post(
    "/certification/revoke",
    response_model=ChangeAnswer,
    responses={
        **error_responses(UnknownCertification, NotHeld, UserNotFound, KeyReused),
        200: dict(REPLAYED_RESPONSE),
    },
    openapi_extra=_PARAMETERS,
)
async def revoke(request: Request) -> Response:
    """Revoke a certification that a member holds."""
    query = read_query(ChangeQuery, request)
    done = await _service(request).revoke(query, read_attempt(request, query))
    name, code = escape_for_discord(done.username), escape_for_discord(done.code)
    return _answer(done, f"Successfully revoked **{name}**'s **{code}** certification.")


def _answer(done: Done, text: str) -> Response:
    return answer(ChangeAnswer(discord=text), headers=REPLAYED if done.is_replay else None)


def _service(request: Request) -> Certifications:
    return cast(Certifications, request.app.state.service)
