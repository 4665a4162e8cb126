"""What accounts does when something happened elsewhere."""

from collections.abc import Mapping, Sequence

from accounts.service import AccountsService
from common.consumer import Handler
from common.events import CertificationGranted, CertificationRevoked, Event, ShiftLogged


async def on_shift_logged(service: AccountsService, events: Sequence[ShiftLogged]) -> int:
    """Count the shifts' points."""
    return await service.record_shifts(events)


async def on_certification_changed(
    service: AccountsService, events: Sequence[CertificationGranted | CertificationRevoked]
) -> int:
    """Keep the copy of who holds what."""
    return await service.record_certifications(events)


HANDLERS: Mapping[type[Event], Handler] = {
    ShiftLogged: on_shift_logged,
    CertificationGranted: on_certification_changed,
    CertificationRevoked: on_certification_changed,
}
