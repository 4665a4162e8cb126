"""The one shape that every error has."""

import importlib
import json
from inspect import Parameter, signature
from typing import Any

import pytest

from common.app import internal_error
from common.errors import (
    ERROR_SCHEMA,
    InvalidQuery,
    ServiceError,
    Unavailable,
    UserNotFound,
    error_responses,
)
from tests.architecture.repository import SERVICES, module


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


@pytest.mark.parametrize(
    "package",
    ["common", "common.outgoing", "gateway", *(service for service in SERVICES if module(service, "errors"))],
)
def test_the_docstring_of_an_error_begins_with_its_status(package: str) -> None:
    """Callers read it in the description of each route that may answer it."""
    found = vars(importlib.import_module(f"{package}.errors")).values()
    errors: set[type[Any]] = {one for one in found if isinstance(one, type) and issubclass(one, ServiceError)}
    for error in errors - {ServiceError}:
        needed = [one for one in signature(error).parameters.values() if one.default is Parameter.empty]
        assert (error.__doc__ or "").startswith(f"{error(*['x'] * len(needed)).status}: "), error


def test_errors_of_one_status_are_described_together() -> None:
    described = error_responses(UserNotFound)
    assert set(described) == {400, 404, 503}
    assert described[404]["description"] == "neither an account nor an identity plugin knows this user"
    assert described[404]["content"]["application/json"]["schema"] == ERROR_SCHEMA

    class Other(ServiceError):
        """404: something else is not there."""

    text = error_responses(UserNotFound, Other)[404]["description"]
    assert text == "neither an account nor an identity plugin knows this user; or something else is not there"
