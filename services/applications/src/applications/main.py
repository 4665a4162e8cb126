"""The applications service: `python -m applications.main`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from applications import api
from applications.plugins import DOCUMENTS
from applications.repository import COLLECTIONS
from applications.service import Applications
from applications.settings import ApplicationsSettings
from common.app import serve
from common.events import ApplicationApproved, ApplicationSubmitted
from common.service import Chassis, Service


@asynccontextmanager
async def _open(chassis: Chassis[ApplicationsSettings]) -> AsyncIterator[Applications]:
    (documents,) = (await chassis.plugins(DOCUMENTS)).values()
    accounts = chassis.peer("accounts")
    service = Applications(
        chassis.settings, chassis.group, chassis.database, chassis.outbox, accounts, documents
    )
    await chassis.background(service.finish_abandoned)
    yield service


SERVICE = Service(
    "applications",
    ApplicationsSettings,
    _open,
    routers=[api.router],
    collections=COLLECTIONS,
    publishes=[ApplicationSubmitted, ApplicationApproved],
    plugin_points=[DOCUMENTS],
)


if __name__ == "__main__":
    serve(SERVICE)
