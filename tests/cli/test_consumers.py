"""What `callboard migrate` does to the consumers in NATS."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from callboard.consumers import handled_subjects, set_filters
from callboard.servers import free_port
from common.messaging.watch import consumer_config
from common.settings import Settings
from common.stream import STREAM, SUBJECTS
from tests.cli.machine import CALLBOARD, run
from tests.support import Servers, settings
from tests.support.nats_servers import nats_with

GONE = "callboard.test.nobody_handles_this_any_more.v1"


@asynccontextmanager
async def jetstream(folder: Path, servers: Servers) -> AsyncIterator[tuple[JetStreamContext, Settings]]:
    """A NATS of its own with the stream, and the settings that lead to it."""
    async with nats_with(folder) as server, await nats.connect(server.url) as client:
        stream = client.jetstream(timeout=60)
        await stream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECTS]))
        yield stream, settings(Settings, servers, nats_url=server.url)


async def asked_for(stream: JetStreamContext, service: str) -> Sequence[str]:
    """The filter of a consumer."""
    return (await stream.consumer_info(STREAM, service)).config.filter_subjects or ()


async def test_a_migration_takes_out_of_a_filter_what_is_gone_and_adds_what_is_new(
    servers: Servers, tmp_path: Path
) -> None:
    async with jetstream(tmp_path, servers) as (stream, own):
        before = sorted(handled_subjects("accounts"))
        await stream.add_consumer(STREAM, consumer_config("accounts", {GONE, before[0]}, own.bus))
        for _ in range(2):
            assert await set_filters(own) is None
            assert await asked_for(stream, "accounts") == before
        # A consumer that is not there yet begins with all that there is; nobody makes it for a service that never ran.
        assert [found.name for found in await stream.consumers_info(STREAM)] == ["accounts"]


async def test_a_migration_needs_no_nats(servers: Servers) -> None:
    answer = await run(
        *(CALLBOARD, "migrate"),
        CALLBOARD_MONGO_URL=servers.mongo_url,
        CALLBOARD_NATS_URL=f"nats://callboard:secret@127.0.0.1:{free_port()}",
        CALLBOARD_INTERNAL_TOKEN=servers.internal_token,
    )
    assert answer.status == 0
    assert answer.error == (
        "The databases are up to date.\n"
        "The filters of the consumers were left as they are (NATS does not answer); services add what they lack when "
        "they start.\n"
    )
