"""What can go wrong when a shift is logged."""

from common.errors import ServiceError


class UnknownPlace(ServiceError):
    """400: the place is not listed, and the configuration refuses such places."""

    def __init__(self) -> None:
        super().__init__(400, "unknown place")


class InvalidCertification(ServiceError):
    """400: the member held none of the certifications that the place asks for."""

    def __init__(self) -> None:
        super().__init__(400, "invalid certification")


class ImpossibleDuration(ServiceError):
    """400: nobody works that short or that long."""

    def __init__(self) -> None:
        super().__init__(400, "impossible duration: expected 1 second to 24 hours")
