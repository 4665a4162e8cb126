"""What `callboard migrate` does to the consumers in NATS."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from callboard.consumers import examine_consumers, handled_subjects, set_filters
from callboard.doctor import verdict
from callboard.servers import free_port
from callboard.services import SERVICES
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


async def lines(stream: JetStreamContext) -> dict[str, str]:
    """What `callboard doctor` says of the consumers, with its verdict."""
    return {one.what: verdict(one) async for one in examine_consumers(stream)}


async def test_doctor_says_which_consumer_is_missing_paused_or_asks_for_too_little_or_too_much(
    servers: Servers, tmp_path: Path
) -> None:
    async with jetstream(tmp_path, servers) as (stream, own):
        subjects = {service: handled_subjects(service) for service in SERVICES if handled_subjects(service)}
        (found,) = (await lines(stream)).items()
        assert found == (f"NATS has no consumer yet for {', '.join(subjects)}.", "warning")

        for service, wanted in subjects.items():
            await stream.add_consumer(STREAM, consumer_config(service, wanted, own.bus))
        right = {"The consumers ask for what this version handles, and none is paused.": "right"}
        assert await lines(stream) == right

        lacking, *others = sorted(subjects["accounts"])
        await stream.add_consumer(STREAM, consumer_config("accounts", [GONE, *others], own.bus))
        await stream.pause_consumer(STREAM, "shifts", (datetime.now(UTC) + timedelta(hours=1)).isoformat())
        until = (await stream.consumer_info(STREAM, "shifts")).config.pause_until
        assert await lines(stream) == {
            f"The consumer accounts does not ask for {lacking}, which this version handles.": "wrong",
            f"The consumer accounts asks for {GONE}, which this version does not handle: these events are put off.": "warning",
            f"The consumer shifts is paused in NATS until {until}: its events wait.": "wrong",
        }

        assert await set_filters(own) is None
        assert list(await lines(stream)) == [
            f"The consumer shifts is paused in NATS until {until}: its events wait."
        ]
        await stream.resume_consumer(STREAM, "shifts")
        assert await lines(stream) == right
