"""What can go wrong when a player is looked up or ranked."""

from common.errors import ServiceError


class UnknownPlace(ServiceError):
    """400: the place is not listed, and the configuration refuses such places."""

    def __init__(self) -> None:
        super().__init__(400, "unknown place")


class RankRefused(ServiceError):
    """409: the ranking plugin will never set this rank for this user; `reason` says why.

    `discord` tells a moderator what can be done about it.
    """

    def __init__(self, reason: str, *, discord: str | None = None) -> None:
        super().__init__(409, f"couldn't rank user: {reason}", discord=discord)
