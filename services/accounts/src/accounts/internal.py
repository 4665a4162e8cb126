"""Routes of accounts for the other services only."""

from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accounts.models import ProfileQuery, RankRequest
from accounts.service import AccountsService
from common.app import answer
from common.query import read_query, validate

router = APIRouter(prefix="/internal", include_in_schema=False)


@router.get("/member")
async def member(request: Request) -> Response:
    """A user's id, true name and rank, by exactly one of id, username and discord."""
    return answer(await _service(request).member(read_query(ProfileQuery, request)))


@router.post("/rank")
async def rank(request: Request) -> Response:
    """Give a user a rank; safe to repeat."""
    wish = validate(RankRequest, await request.json())
    return answer(await _service(request).set_rank(wish.user, wish.rankid))


def _service(request: Request) -> AccountsService:
    return cast(AccountsService, request.app.state.service)
