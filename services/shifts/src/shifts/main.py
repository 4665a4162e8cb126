"""The shifts service: `python -m shifts.main`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from common.app import Chassis, create_app
from common.events import CertificationGranted, CertificationRevoked, Event
from common.messaging.handling import Handler
from common.outgoing.local import Apps
from common.plugins import load
from common.server import run
from common.settings import read_settings
from shifts import api
from shifts.repository import COLLECTIONS
from shifts.service import Shifts
from shifts.settings import ShiftsSettings

NAME = "shifts"

HANDLERS: Mapping[type[Event], Handler] = {
    CertificationGranted: Shifts.record_certifications,
    CertificationRevoked: Shifts.record_certifications,
}


def create(settings: ShiftsSettings, apps: Apps | None = None) -> FastAPI:
    """The service; `apps` are the other services of this process, if any."""

    @asynccontextmanager
    async def open_service(chassis: Chassis) -> AsyncIterator[Shifts]:
        policy = load("callboard.points", chassis.group.plugins.points, chassis.group, chassis.database)
        certifications = chassis.peer("certifications", settings.certifications_url)
        yield Shifts(
            chassis.group, chassis.database, chassis.outbox, policy, certifications, settings.consumer
        )

    return create_app(
        NAME,
        settings,
        routers=[api.router],
        open_service=open_service,
        collections=COLLECTIONS,
        handlers=HANDLERS,
        apps=apps,
    )


if __name__ == "__main__":
    own_settings = read_settings(ShiftsSettings)
    run(create(own_settings), own_settings, NAME)
