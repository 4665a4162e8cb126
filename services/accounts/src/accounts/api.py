"""The public routes of accounts."""

from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accounts.errors import UnknownPlace
from accounts.models import ConnectAnswer, ConnectQuery, ProfileAnswer, ProfileQuery
from accounts.service import AccountsService
from common.app import answer
from common.errors import UserNotFound, error_responses
from common.query import query_parameters, read_query

_RANK_AGE = "Callboard-Rank-Age"
_DESCRIPTION = "seconds since the rank was read; absent where ranks are kept here"
_WITH_RANK_AGE: dict[int | str, dict[str, Any]] = {
    200: {"headers": {_RANK_AGE: {"description": _DESCRIPTION, "schema": {"type": "integer", "minimum": 0}}}}
}

router = APIRouter()


@router.get(
    "/connect",
    response_model=ConnectAnswer,
    responses=_WITH_RANK_AGE | error_responses(UnknownPlace),
    openapi_extra=query_parameters(ConnectQuery),
)
async def connect(request: Request) -> Response:
    """Who is this player, and may they be on this server?"""
    query = read_query(ConnectQuery, request)
    found, age = await _service(request).connect(query.place, query.id, training=query.training)
    return answer(found, headers=_age_header(age))


@router.get(
    "/profile",
    response_model=ProfileAnswer,
    responses=_WITH_RANK_AGE | error_responses(UserNotFound),
    openapi_extra=query_parameters(ProfileQuery),
)
async def profile(request: Request) -> Response:
    """Points, rank and certifications of a user, by exactly one of id, username and discord."""
    found, age = await _service(request).profile(read_query(ProfileQuery, request))
    return answer(found, headers=_age_header(age))


def _age_header(age: int | None) -> dict[str, str] | None:
    return None if age is None else {_RANK_AGE: str(age)}


def _service(request: Request) -> AccountsService:
    return cast(AccountsService, request.app.state.service)
