"""One shifts service for the tests of this folder, with a real certifications service beside it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

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
from tests.support import Servers, patience, running, settings


@dataclass(frozen=True)
class Park:
    """Two replicas of the running service, its use cases, its database, and that of certifications."""

    client: httpx.AsyncClient
    replica: httpx.AsyncClient
    service: Shifts
    database: Database
    certifications: Database


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """What a busy machine makes slow is waited for, and no shift is answered 503 for it."""
    with patience():
        yield


@pytest.fixture(scope="module")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """The service, for a whole file of tests."""
    async with open_park(servers) as one:
        yield one


@asynccontextmanager
async def open_park(servers: Servers, **given: Any) -> AsyncIterator[Park]:
    """The service with the settings that are `given`."""
    own = settings(ShiftsSettings, servers, **given)
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
