"""The public routes of accounts."""

from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accounts.errors import UnknownPlace
from accounts.models import ConnectAnswer, ConnectQuery, ProfileAnswer, ProfileQuery
from accounts.service import AccountsService
from common.app import answer
from common.errors import UserNotFound, error_responses
from common.query import query_parameters, read_query

router = APIRouter()


@router.get(
    "/connect",
    response_model=ConnectAnswer,
    responses=error_responses(UnknownPlace),
    openapi_extra=query_parameters(ConnectQuery),
)
async def connect(request: Request) -> Response:
    """Who is this player, and may they be on this server?"""
    query = read_query(ConnectQuery, request)
    return answer(await _service(request).connect(query.place, query.id, training=query.training))


@router.get(
    "/profile",
    response_model=ProfileAnswer,
    responses=error_responses(UserNotFound),
    openapi_extra=query_parameters(ProfileQuery),
)
async def profile(request: Request) -> Response:
    """Points, rank and certifications of a user, by exactly one of id, username and discord."""
    return answer(await _service(request).profile(read_query(ProfileQuery, request)))


def _service(request: Request) -> AccountsService:
    return cast(AccountsService, request.app.state.service)
