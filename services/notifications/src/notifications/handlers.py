"""What notifications does when something happened elsewhere."""

from collections.abc import Mapping, Sequence

from common.consumer import Handler
from common.events import (
    ApplicationApproved,
    ApplicationSubmitted,
    CertificationGranted,
    CertificationRevoked,
    Event,
    ShiftLogged,
)
from notifications.service import Notifications


async def on_something(service: Notifications, events: Sequence[Event]) -> int:
    """Tell people."""
    return await service.tell(events)


HANDLERS: Mapping[type[Event], Handler] = {
    ApplicationSubmitted: on_something,
    ApplicationApproved: on_something,
    CertificationGranted: on_something,
    CertificationRevoked: on_something,
    ShiftLogged: on_something,
}
