"""What can go wrong when an application is uploaded, read or approved."""

from common.errors import ServiceError


class BodyTooLarge(ServiceError):
    """413: the body is larger than an upload may be."""

    def __init__(self, largest: int) -> None:
        super().__init__(413, f"body too large: expected at most {largest} bytes")


class ApplicationNotFound(ServiceError):
    """404: there is no text at this URL, or no more."""

    def __init__(self) -> None:
        super().__init__(404, "not found")


class AlreadyRanked(ServiceError):
    """400: there is nothing to approve."""

    def __init__(self) -> None:
        super().__init__(400, "user is already trainee/cast")


class NotRanked(ServiceError):
    """502: the rank was refused, or could not be set now.

    `discord` is what a refusal says can be done about it.
    """

    def __init__(self, discord: str | None = None) -> None:
        super().__init__(502, "couldn't rank user", discord=discord)
