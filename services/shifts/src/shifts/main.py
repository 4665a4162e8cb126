"""The shifts service: `python -m shifts.main`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.app import serve
from common.events import CertificationGranted, CertificationRevoked, ShiftLogged
from common.service import Chassis, Service
from shifts import api
from shifts.plugins import POINTS
from shifts.repository import COLLECTIONS
from shifts.service import Shifts
from shifts.settings import ShiftsSettings


@asynccontextmanager
async def _open(chassis: Chassis[ShiftsSettings]) -> AsyncIterator[Shifts]:
    (policy,) = (await chassis.plugins(POINTS)).values()
    certifications = chassis.peer("certifications")
    yield Shifts(chassis.settings, chassis.group, chassis.database, chassis.outbox, policy, certifications)


SERVICE = Service(
    "shifts",
    ShiftsSettings,
    _open,
    routers=[api.router],
    collections=COLLECTIONS,
    publishes=[ShiftLogged],
    handles={
        CertificationGranted: Shifts.record_certifications,
        CertificationRevoked: Shifts.record_certifications,
    },
    plugin_points=[POINTS],
)


if __name__ == "__main__":
    serve(SERVICE)
