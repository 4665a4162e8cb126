"""Which services are installed, and what each declares.

Names are known at once. A declaration is loaded only where it is asked for: with all that the service needs to run, that
takes a second of a slow machine.
"""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it would be loaded for the names alone
    from common.service import Service

_GROUP = "callboard.services"

SERVICES = tuple(sorted(entry_points(group=_GROUP).names))
DATABASES = (*SERVICES, "gateway")


def declared(name: str) -> "Service[Any]":
    """What an installed service declares."""
    found: Service[Any] = next(iter(entry_points(group=_GROUP, name=name))).load()
    return found
