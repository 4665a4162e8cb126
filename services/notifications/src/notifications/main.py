"""The notifications service: `python -m notifications.main`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from common.app import Chassis, create_app
from common.events import (
    ApplicationApproved,
    ApplicationSubmitted,
    CertificationGranted,
    CertificationRevoked,
    Event,
    ShiftLogged,
)
from common.group import load_group
from common.messaging.handling import Handler
from common.outgoing.local import Apps
from common.plugins import load
from common.server import run
from common.settings import read_settings
from notifications.repository import COLLECTIONS
from notifications.service import Notifications
from notifications.settings import NotificationsSettings

NAME = "notifications"

HANDLERS: Mapping[type[Event], Handler] = dict.fromkeys(
    (ApplicationSubmitted, ApplicationApproved, CertificationGranted, CertificationRevoked, ShiftLogged),
    Notifications.tell,
)


def create(settings: NotificationsSettings, apps: Apps | None = None) -> FastAPI:
    """The service; `apps` are the other services of this process, if any."""

    @asynccontextmanager
    async def open_service(chassis: Chassis) -> AsyncIterator[Notifications]:
        group, database = chassis.group, chassis.database
        notifiers = {
            name: await chassis.stack.enter_async_context(load("callboard.notify", name, group, database))
            for name in group.plugins.notify
        }
        accounts = chassis.peer("accounts", settings.accounts_url)
        yield Notifications(group, database, accounts, notifiers)

    has_notifiers = load_group(settings.config).plugins.notify
    return create_app(
        NAME,
        settings,
        routers=[],
        open_service=open_service,
        collections=COLLECTIONS,
        handlers=HANDLERS if has_notifiers else None,  # who tells nobody reads no events
        apps=apps,
    )


if __name__ == "__main__":
    own_settings = read_settings(NotificationsSettings)
    run(create(own_settings), own_settings, NAME)
