"""The one shape that every error has."""

import json

import pytest

from common.app import internal_error
from common.errors import InvalidQuery, ServiceError, Unavailable, UserNotFound


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (ServiceError(418, "no"), 418, '{"status":"error","message":"no"}'),
        (ServiceError(418, discord="No."), 418, '{"status":"error","discord":"No."}'),
        (ServiceError(418, "no", discord="No."), 418, '{"status":"error","message":"no","discord":"No."}'),
        (InvalidQuery("id is missing"), 400, '{"status":"error","message":"invalid query: id is missing"}'),
        (
            UserNotFound(),
            404,
            '{"status":"error","message":"couldn\'t find user","discord":"We couldn\'t find the requested user, '
            'please ensure you typed it correctly and try again."}',
        ),
        (Unavailable("nats"), 503, '{"status":"error","message":"nats is unavailable, try again"}'),
    ],
)
def test_an_error_has_a_status_and_a_message_or_a_text_for_discord(
    error: ServiceError, status: int, body: str
) -> None:
    assert error.status == status
    assert json.dumps(error.body(), separators=(",", ":"), ensure_ascii=False) == body


def test_an_unexpected_error_tells_the_request_and_nothing_else() -> None:
    response = internal_error("62f6")
    assert response.status_code == 500
    assert response.body == b'{"status":"error","message":"internal error","request_id":"62f6"}'
