"""A service by its name, wherever it runs."""

from collections.abc import Iterable

from common.outgoing.limits import OutgoingLimits
from common.outgoing.local import Apps, LocalService
from common.outgoing.remote import RemoteService

Upstream = LocalService | RemoteService


def open_upstream(
    name: str, urls: Iterable[str], *, apps: Apps, token: str, limits: OutgoingLimits
) -> Upstream:
    """The service of this process where `apps` has it, else the one at `urls`. Close it when done."""
    if name in apps:
        return LocalService(name, apps[name], token, limits)
    return RemoteService(name, urls, token, limits)
