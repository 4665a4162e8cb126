"""The applications service: `python -m applications.main`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from applications import api
from applications.plugins import Documents
from applications.repository import COLLECTIONS
from applications.service import Applications
from applications.settings import ApplicationsSettings
from common.app import Chassis, create_app
from common.outgoing.local import Apps
from common.plugins import load
from common.server import run
from common.settings import read_settings

NAME = "applications"


def create(settings: ApplicationsSettings, apps: Apps | None = None) -> FastAPI:
    """The service; `apps` are the other services of this process, if any."""

    @asynccontextmanager
    async def open_service(chassis: Chassis) -> AsyncIterator[Applications]:
        group, database = chassis.group, chassis.database
        plugin: Documents = load("callboard.documents", group.plugins.documents, group, database)
        accounts = chassis.peer("accounts", settings.accounts_url)
        async with plugin as documents:
            public_url = str(settings.public_url)
            service = Applications(group, database, chassis.outbox, accounts, documents, public_url)
            await chassis.background(service.finish_abandoned)
            yield service

    return create_app(
        NAME,
        settings,
        routers=[api.router],
        open_service=open_service,
        collections=COLLECTIONS,
        apps=apps,
    )


if __name__ == "__main__":
    own_settings = read_settings(ApplicationsSettings)
    run(create(own_settings), own_settings, NAME)
