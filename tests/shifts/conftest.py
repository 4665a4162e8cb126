"""One shifts service for the tests of this folder, with a real certifications service beside it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest

from certifications import main as certifications
from certifications.settings import CertificationsSettings
from common.app import create_app
from common.mongo import Database, connect
from common.outgoing.local import Apps
from shifts import main as shifts
from shifts.service import Shifts
from shifts.settings import ShiftsSettings
from tests.support import Servers, running, settings


@dataclass(frozen=True)
class Park:
    """Two replicas of the running service, its use cases, its database, and that of certifications."""

    client: httpx.AsyncClient
    replica: httpx.AsyncClient
    service: Shifts
    database: Database
    certifications: Database


@pytest.fixture(scope="module")
def patient() -> Iterator[None]:
    """What a busy machine makes slow is waited for, and no shift is answered 503 for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.mongo.TIMEOUT_SECONDS", 20.0)
        for name in ("DEADLINE_SECONDS", "LOCKED_SECONDS", "CERTIFICATIONS_SECONDS"):
            patch.setattr(f"shifts.service.{name}", 20.0)
        yield


@pytest.fixture(scope="module")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """The service, for a whole file of tests."""
    own = settings(ShiftsSettings, servers)
    neighbour = settings(CertificationsSettings, servers)
    certifications_app = create_app(certifications.SERVICE, neighbour)
    apps: Apps = {"certifications": certifications_app}
    app = create_app(shifts.SERVICE, own, apps)
    client, database = connect(own, "shifts")
    async with (
        running(certifications_app, neighbour),
        running(app, own) as http,
        running(create_app(shifts.SERVICE, own, apps), own) as replica,
        client,
    ):
        yield Park(http, replica, app.state.service, database, client["certifications"])
