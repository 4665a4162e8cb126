"""The public routes of certifications."""

from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from certifications.errors import AlreadyHeld, NotHeld, RankTooLow, UnknownCertification
from certifications.models import ChangeAnswer, ChangeQuery
from certifications.service import Certifications
from common.app import answer
from common.errors import UserNotFound, error_responses
from common.query import query_parameters, read_query
from common.text import escape_for_discord

router = APIRouter()


@router.post(
    "/certification/grant",
    response_model=ChangeAnswer,
    responses=error_responses(UnknownCertification, AlreadyHeld, RankTooLow, UserNotFound),
    openapi_extra=query_parameters(ChangeQuery),
)
async def grant(request: Request) -> Response:
    """Grant a certification to a member whose rank allows it."""
    query = read_query(ChangeQuery, request)
    member = await _service(request).grant(query.certification, query.username, query.moderator)
    name, code = escape_for_discord(member.username), escape_for_discord(query.certification)
    text = f"Successfully granted **{name}** the **{code}** certification."
    return answer(ChangeAnswer(discord=text))


@router.post(
    "/certification/revoke",
    response_model=ChangeAnswer,
    responses=error_responses(UnknownCertification, NotHeld, UserNotFound),
    openapi_extra=query_parameters(ChangeQuery),
)
async def revoke(request: Request) -> Response:
    """Revoke a certification that a member holds."""
    query = read_query(ChangeQuery, request)
    member = await _service(request).revoke(query.certification, query.username, query.moderator)
    name, code = escape_for_discord(member.username), escape_for_discord(query.certification)
    text = f"Successfully revoked **{name}**'s **{code}** certification."
    return answer(ChangeAnswer(discord=text))


def _service(request: Request) -> Certifications:
    return cast(Certifications, request.app.state.service)
