"""Who tells nobody reads no events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import nats
import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from common.app import create_app
from common.stream import STREAM
from notifications.main import SERVICE
from notifications.settings import NotificationsSettings
from tests.gateway.builders import changed_config
from tests.support import Servers, running, settings, wait_until


@asynccontextmanager
async def jetstream(servers: Servers) -> AsyncIterator[JetStreamContext]:
    """The stream as an operator sees it."""
    client = await nats.connect(servers.nats_url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def is_consuming(servers: Servers) -> bool:
    """Whether there is a consumer of notifications."""
    async with jetstream(servers) as stream:
        try:
            await stream.consumer_info(STREAM, "notifications")
        except NotFoundError:
            return False
    return True


async def is_up(client: httpx.AsyncClient) -> bool:
    """Whether the service is connected to NATS."""
    return bool((await client.get("/readyz")).json()["nats"] == "up")


async def test_with_nobody_to_tell_there_is_no_consumer_and_nothing_to_configure(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CALLBOARD_DISCORD_WEBHOOK", raising=False)
    own = settings(NotificationsSettings, servers)
    async with running(create_app(SERVICE, own), own) as client:
        await wait_until(lambda: is_up(client))
    assert not await is_consuming(servers)


async def test_with_somebody_to_tell_there_is_a_consumer(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = changed_config(tmp_path, {"notify = []": 'notify = ["discord"]'})
    own = settings(NotificationsSettings, servers, config=config)
    monkeypatch.setenv("CALLBOARD_DISCORD_WEBHOOK", "http://127.0.0.1:9/api/webhooks/1/x")
    async with running(create_app(SERVICE, own), own):
        await wait_until(lambda: is_consuming(servers))
    async with jetstream(servers) as stream:
        await stream.delete_consumer(STREAM, "notifications")
