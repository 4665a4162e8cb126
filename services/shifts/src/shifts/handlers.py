"""What shifts does when something happened elsewhere."""

from collections.abc import Mapping, Sequence

from common.consumer import Handler
from common.events import CertificationGranted, CertificationRevoked, Event
from shifts.service import Shifts


async def on_certification_changed(
    service: Shifts, events: Sequence[CertificationGranted | CertificationRevoked]
) -> int:
    """Keep the copy of who holds what."""
    return await service.record_certifications(events)


HANDLERS: Mapping[type[Event], Handler] = {
    CertificationGranted: on_certification_changed,
    CertificationRevoked: on_certification_changed,
}
