"""Routes of accounts for the other services only."""

from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accounts.errors import RankRefused
from accounts.models import MemberAnswer, MemberQuery, RankRequest
from accounts.service import AccountsService
from common.app import answer
from common.errors import InvalidQuery, UserNotFound, error_responses
from common.query import query_parameters, read_query, validate

router = APIRouter(prefix="/internal")


@router.get(
    "/member",
    response_model=MemberAnswer,
    responses=error_responses(UserNotFound),
    openapi_extra=query_parameters(MemberQuery),
)
async def member(request: Request) -> Response:
    """A user's id, true name and rank, by exactly one of id, username and discord."""
    return answer(await _service(request).member(read_query(MemberQuery, request)))


@router.post(
    "/rank",
    response_model=MemberAnswer,
    responses=error_responses(RankRefused, UserNotFound),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": RankRequest.model_json_schema()}},
        }
    },
)
async def rank(request: Request) -> Response:
    """Give a user a rank; safe to repeat."""
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        raise InvalidQuery("body is not valid JSON") from None
    wish = validate(RankRequest, body)
    return answer(await _service(request).set_rank(wish.user, wish.rankid))


def _service(request: Request) -> AccountsService:
    return cast(AccountsService, request.app.state.service)
