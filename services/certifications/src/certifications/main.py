"""The certifications service: `python -m certifications.main`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from certifications import api, internal
from certifications.repository import COLLECTIONS
from certifications.service import Certifications
from certifications.settings import CertificationsSettings
from common.app import serve
from common.events import CertificationGranted, CertificationRevoked
from common.service import Chassis, Service


@asynccontextmanager
async def _open(chassis: Chassis[CertificationsSettings]) -> AsyncIterator[Certifications]:
    accounts = chassis.peer("accounts")
    yield Certifications(chassis.settings, chassis.group, chassis.database, chassis.outbox, accounts)


SERVICE = Service(
    "certifications",
    CertificationsSettings,
    _open,
    routers=[api.router, internal.router],
    collections=COLLECTIONS,
    publishes=[CertificationGranted, CertificationRevoked],
)


if __name__ == "__main__":
    serve(SERVICE)
