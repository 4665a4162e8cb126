"""What can go wrong in any service; `app.py` turns these into JSON, and nothing else does."""

from collections.abc import Mapping


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
    """400: a parameter or a body field is absent, malformed or repeated; `what` names it."""

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


class InvalidEvent(Exception):
    """An event that can never be handled, however often it is delivered."""


class ConfigurationError(Exception):
    """A setting, a plugin or `callboard.toml` is wrong; the text is one sentence for the operator."""
