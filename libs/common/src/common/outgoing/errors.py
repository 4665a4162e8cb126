"""What can go wrong when a service is called; `common.errors.Unavailable` besides."""

from common.errors import ServiceError


class ServiceLost(ServiceError):
    """502: the service took the request and did not answer it; nobody knows whether it took effect."""

    def __init__(self, service: str) -> None:
        super().__init__(502, f"{service} did not answer, try again", headers={"Retry-After": "1"})


class ServiceSlow(ServiceError):
    """504: the service did not answer in the route's time; nobody knows whether the request took effect."""

    def __init__(self, service: str) -> None:
        super().__init__(504, f"{service} did not answer in time, try again", headers={"Retry-After": "1"})
