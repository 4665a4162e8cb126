"""The notifications service: `python -m notifications.main`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.app import serve
from common.events import (
    ApplicationApproved,
    ApplicationSubmitted,
    CertificationGranted,
    CertificationRevoked,
    ShiftLogged,
)
from common.group import Group
from common.service import Chassis, Service
from notifications.plugins import NOTIFY
from notifications.repository import COLLECTIONS
from notifications.service import Notifications
from notifications.settings import NotificationsSettings


@asynccontextmanager
async def _open(chassis: Chassis[NotificationsSettings]) -> AsyncIterator[Notifications]:
    notifiers = await chassis.plugins(NOTIFY)
    limits, accounts = chassis.settings.notifications, chassis.peer("accounts")
    yield Notifications(limits, chassis.group, chassis.database, accounts, notifiers)


def _tells_somebody(group: Group) -> bool:
    return bool(NOTIFY.names(group))


SERVICE = Service(
    "notifications",
    NotificationsSettings,
    _open,
    collections=COLLECTIONS,
    handles=dict.fromkeys(
        (ApplicationSubmitted, ApplicationApproved, CertificationGranted, CertificationRevoked, ShiftLogged),
        Notifications.tell,
    ),
    hears=_tells_somebody,
    plugin_points=[NOTIFY],
)


if __name__ == "__main__":
    serve(SERVICE)
