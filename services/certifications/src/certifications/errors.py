"""What can go wrong when a certification is granted or revoked."""

from collections.abc import Iterable

from common.errors import ServiceError


class UnknownCertification(ServiceError):
    """400: the configuration has no such certification."""

    def __init__(self, code: str, known: Iterable[str]) -> None:
        text = f'unknown certification "{code}", known ones: {", ".join(known)}'
        super().__init__(400, text, discord=f"{text[0].upper()}{text[1:]}.")


class RankTooLow(ServiceError):
    """403: the member's rank is below the certification's minimum rank."""

    def __init__(self) -> None:
        text = "The requested user does not meet the rank pre-requisites to receive a certification."
        super().__init__(403, discord=text)


class AlreadyHeld(ServiceError):
    """400: there is nothing to grant."""

    def __init__(self, username: str, code: str) -> None:
        super().__init__(400, discord=f"**{username}** already has the **{code}** certification.")


class NotHeld(ServiceError):
    """400: there is nothing to revoke."""

    def __init__(self, username: str, code: str) -> None:
        super().__init__(400, discord=f"**{username}** doesn't have the **{code}** certification.")
