"""The certifications service: `python -m certifications.main`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from certifications import api, internal
from certifications.repository import COLLECTIONS
from certifications.service import Certifications
from certifications.settings import CertificationsSettings
from common.app import Chassis, create_app
from common.outgoing.local import Apps
from common.server import run
from common.settings import read_settings

NAME = "certifications"


def create(settings: CertificationsSettings, apps: Apps | None = None) -> FastAPI:
    """The service; `apps` are the other services of this process, if any."""

    @asynccontextmanager
    async def open_service(chassis: Chassis) -> AsyncIterator[Certifications]:
        accounts = chassis.peer("accounts", settings.accounts_url)
        yield Certifications(chassis.group, chassis.database, chassis.outbox, accounts)

    return create_app(
        NAME,
        settings,
        routers=[api.router, internal.router],
        open_service=open_service,
        collections=COLLECTIONS,
        apps=apps,
    )


if __name__ == "__main__":
    own_settings = read_settings(CertificationsSettings)
    run(create(own_settings), own_settings, NAME)
