"""Routes of certifications for the other services only."""

from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from certifications.models import HeldAnswer, HeldCertification, HeldQuery
from certifications.service import Certifications
from common.app import answer
from common.errors import error_responses
from common.query import query_parameters, read_query

router = APIRouter(prefix="/internal")


@router.get(
    "/certifications",
    response_model=HeldAnswer,
    responses=error_responses(),
    openapi_extra=query_parameters(HeldQuery),
)
async def certifications_of(request: Request) -> Response:
    """What a user holds, for a service whose own copy may be behind."""
    query = read_query(HeldQuery, request)
    service = cast(Certifications, request.app.state.service)
    return answer(
        HeldAnswer(
            certifications={
                record.code: HeldCertification(
                    held=record.held, version=record.version, changed_at=record.changed_at
                )
                for record in await service.all_of(query.user)
            }
        )
    )
