"""What can go wrong in any service, and how it is answered."""

from collections.abc import Mapping
from inspect import getdoc
from typing import Any

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"const": "error"},
        "message": {"type": "string", "description": "for developers"},
        "discord": {"type": "string", "description": "fit to show in a Discord channel"},
        "request_id": {"type": "string", "description": "of an error that nobody expected"},
    },
    "anyOf": [{"required": ["message"]}, {"required": ["discord"]}],
}
"""The body of every error, for OpenAPI."""


class ServiceError(Exception):
    """An answer other than success.

    `message` is for developers; `discord` is fit to show in a channel. At least one of them is given, and
    the ones that are given become the body, in this order.
    """

    def __init__(
        self,
        status: int,
        message: str | None = None,
        *,
        discord: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or discord)
        self.status = status
        self.message = message
        self.discord = discord
        self.headers = dict(headers or {})

    def body(self) -> dict[str, str]:
        """The JSON body, its keys in the contract's order."""
        body = {"status": "error"}
        if self.message is not None:
            body["message"] = self.message
        if self.discord is not None:
            body["discord"] = self.discord
        return body


class InvalidQuery(ServiceError):
    """400: a parameter or a body field, which `message` names, is absent, malformed or repeated."""

    def __init__(self, what: str) -> None:
        super().__init__(400, f"invalid query: {what}")


class UserNotFound(ServiceError):
    """404: neither an account nor an identity plugin knows this user."""

    def __init__(self) -> None:
        super().__init__(
            404,
            "couldn't find user",
            discord="We couldn't find the requested user, please ensure you typed it correctly and try again.",
        )


class Unavailable(ServiceError):
    """503: something that this answer needs does not answer; the same request may succeed later."""

    def __init__(self, what: str) -> None:
        super().__init__(503, f"{what} is unavailable, try again", headers={"Retry-After": "1"})


class Locked(Unavailable):
    """503: another transaction holds what this one writes, and does not end; the same request may succeed later."""

    def __init__(self) -> None:
        super().__init__("database")


class KeyReused(ServiceError):
    """422: this Idempotency-Key came before with another route, moderator or parameters."""

    def __init__(self) -> None:
        super().__init__(422, "this Idempotency-Key was used for another request")


class StillRunning(ServiceError):
    """503: an earlier request with this Idempotency-Key is still running; the same request may succeed later."""

    def __init__(self) -> None:
        text = "an earlier request with this Idempotency-Key is still running, try again"
        super().__init__(503, text, headers={"Retry-After": "1"})


def error_responses(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these errors and of those of every route, for a route's `responses`.

    The first line of an error's docstring tells its status and what it means.
    """
    meanings: dict[int | str, list[str]] = {}
    for error in (InvalidQuery, Unavailable, *errors):
        status, _, meaning = (getdoc(error) or "").partition("\n")[0].partition(": ")
        meanings.setdefault(int(status), []).append(meaning.removesuffix("."))
    return {
        status: {
            "description": "; or ".join(texts),
            "content": {"application/json": {"schema": ERROR_SCHEMA}},
        }
        for status, texts in meanings.items()
    }


class BrokenOff(Exception):
    """A service failed in the middle of its response, and logged why. The server closes the connection."""


class InvalidEvent(Exception):
    """An event that can never be handled, however often it is delivered."""


class ConfigurationError(Exception):
    """A setting, a plugin or `callboard.toml` is wrong; the text is one sentence for the operator."""
