"""What can go wrong at the gateway, for a request and for an operator who changes keys."""

from collections.abc import Iterable

from common.errors import ServiceError


class InvalidRequest(ServiceError):
    """400: what arrived is no HTTP request, or one that could be read in more than one way."""

    def __init__(self, what: str = "") -> None:
        super().__init__(400, f"invalid request: {what}" if what else "invalid request")


class HeadTooSlow(ServiceError):
    """408: a request's line and headers did not arrive in time."""

    def __init__(self) -> None:
        super().__init__(408, "request did not arrive in time")


class HeadTooLarge(ServiceError):
    """431: a request's line and headers are too large."""

    def __init__(self) -> None:
        super().__init__(431, "headers too large")


class TooManyConnections(ServiceError):
    """503: more clients are connected than there is room for."""

    def __init__(self) -> None:
        super().__init__(503, "too many connections, try again", headers={"Retry-After": "1"})


class NotFound(ServiceError):
    """404: `routes.toml` has no such path, or it was not written in its one canonical way."""

    def __init__(self) -> None:
        super().__init__(404, "not found")


class MethodNotAllowed(ServiceError):
    """405: the path is public, but not with this method."""

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__(405, "method not allowed", headers={"Allow": ", ".join(sorted(allowed))})


class MissingKey(ServiceError):
    """401: the route needs a key, and none is given."""

    def __init__(self) -> None:
        super().__init__(401, "invalid key")


class WrongKey(ServiceError):
    """401: the key is unknown, expired or revoked, or several that differ are given."""

    def __init__(self) -> None:
        super().__init__(401, "invalid key")


class AccessDenied(ServiceError):
    """403: the key is good, but not for this, or not from here."""

    def __init__(self) -> None:
        super().__init__(403, "access denied")


class BodyTooSlow(ServiceError):
    """408: the body did not arrive in time."""

    def __init__(self) -> None:
        super().__init__(408, "body did not arrive in time", headers={"Connection": "close"})


class BodyTooLarge(ServiceError):
    """413: the body is larger than the route takes.

    `unread` says that some of it still arrives.
    """

    def __init__(self, *, unread: bool = False) -> None:
        super().__init__(413, "body too large", headers={"Connection": "close"} if unread else None)


class UnsupportedEncoding(ServiceError):
    """415: the body is packed in a way other than gzip."""

    def __init__(self) -> None:
        super().__init__(415, "unsupported content encoding", headers={"Accept-Encoding": "gzip"})


class TooManyRequests(ServiceError):
    """429: a limit is reached; Retry-After says in how many seconds the next request may pass."""

    def __init__(self, seconds: int) -> None:
        super().__init__(429, "too many requests", headers={"Retry-After": str(seconds)})


class KeyProblem(Exception):
    """What an operator asked of a key cannot be done; the text is one sentence for the operator."""


class NameTaken(KeyProblem):
    """A key of this name is in use."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'There is a key named "{name}" already: rotate it, revoke it, or choose another name.'
        )


class NoSuchKey(KeyProblem):
    """No key of this name is in use."""

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no key named "{name}" in use.')


class NewerKey(KeyProblem):
    """The key in use is one that only a newer version understands."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'The key "{name}" was made by a newer version of Callboard: change it with that, or revoke it.'
        )


class InvalidKeyField(KeyProblem):
    """A key cannot have this value."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}.")
