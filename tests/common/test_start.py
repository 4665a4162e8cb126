"""A service's start, and what is left of one that fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.app import create_app
from common.errors import ConfigurationError
from common.mongo import connect, migrate
from common.outbox import OUTBOX
from common.plugins import load
from common.service import Chassis, Service
from common.settings import Settings
from shifts.plugins import POINTS
from tests.support import Servers, settings, unique_id


async def test_a_start_that_fails_leaves_no_connection_to_nats_behind(servers: Servers) -> None:
    is_called, is_left = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_called.set()
        await reader.read()
        writer.close()
        is_left.set()

    @asynccontextmanager
    async def open_service(chassis: Chassis[Settings]) -> AsyncIterator[None]:
        await is_called.wait()
        load(POINTS, "no-such-plugin", chassis.group, chassis.database)
        yield

    nats = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    name = f"start_{unique_id()}"
    url = f"nats://127.0.0.1:{nats.sockets[0].getsockname()[1]}"
    own = settings(Settings, servers, nats_url=url)
    client, database = connect(own, name)
    async with asyncio.timeout(60), client, nats:
        await migrate(database, (OUTBOX,))
        app = create_app(Service(name, Settings, open_service, collections=(OUTBOX,)), own)
        with pytest.raises(ConfigurationError):
            async with app.router.lifespan_context(app):
                pass
        await is_left.wait()
