"""What can go wrong when a certification is granted or revoked."""

from collections.abc import Iterable

from common.errors import ServiceError
from common.text import escape_for_discord


class UnknownCertification(ServiceError):
    """400: the configuration has no such certification."""

    def __init__(self, code: str, known: Iterable[str]) -> None:
        codes = list(known)
        shown = ", ".join(map(escape_for_discord, codes))
        super().__init__(
            400,
            f'unknown certification "{code}", known ones: {", ".join(codes)}',
            discord=f'Unknown certification "{escape_for_discord(code)}", known ones: {shown}.',
        )


class RankTooLow(ServiceError):
    """403: the member's rank is below the certification's minimum rank."""

    def __init__(self) -> None:
        text = "The requested user does not meet the rank pre-requisites to receive a certification."
        super().__init__(403, discord=text)


class AlreadyHeld(ServiceError):
    """400: there is nothing to grant."""

    def __init__(self, username: str, code: str) -> None:
        text = f"**{escape_for_discord(username)}** already has the **{escape_for_discord(code)}** certification."
        super().__init__(400, discord=text)


class NotHeld(ServiceError):
    """400: there is nothing to revoke."""

    def __init__(self, username: str, code: str) -> None:
        text = f"**{escape_for_discord(username)}** doesn't have the **{escape_for_discord(code)}** certification."
        super().__init__(400, discord=text)
