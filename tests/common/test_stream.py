"""A NATS that refuses the stream: one sentence says what to change, and events wait until it is mended."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig

from common.background import background
from common.logs import LogThrottle
from common.messaging.watch import Watch
from common.mongo import connect, migrate
from common.outbox import OUTBOX, Outbox
from common.settings import Settings
from common.stream import STREAM, SUBJECTS
from tests.common.test_bus import PATIENT, Relay, changed, open_bus
from tests.support import Servers, settings, unique_id, wait_until
from tests.support.clock import Clock
from tests.support.nats_servers import nats_with

GIGABYTE = 1 << 30
NO_ROOM = {"sync_interval: always": "sync_interval: always, max_file_store: 100M"}
ONE_STREAM_OF_50_MB = {
    'authorization { user: callboard, password: "': (
        "accounts { A { jetstream: { max_file: 2G, max_streams: 1, max_bytes_required: true, "
        'disk_max_stream_bytes: 50M }, users: [{ user: callboard, password: "'
    ),
    '" }\njetstream': '" }] } }\njetstream',
}


async def nothing(_: JetStreamContext) -> None:
    """Leave NATS as it is."""


async def a_foreign_stream(stream: JetStreamContext) -> None:
    """Somebody else's stream on our subjects."""
    config = StreamConfig(name="OTHER", subjects=["callboard.accounts.>"], max_bytes=1 << 20)
    await stream.add_stream(config)


async def another_stream(stream: JetStreamContext) -> None:
    """Somebody else's stream, the only one that there may be."""
    await stream.add_stream(StreamConfig(name="OTHER", subjects=["other.>"], max_bytes=1 << 20))


async def one_in_memory(stream: JetStreamContext) -> None:
    """A stream of our name that cannot become what ours is."""
    config = StreamConfig(name=STREAM, subjects=[SUBJECTS], storage=StorageType.MEMORY, max_bytes=1 << 20)
    await stream.add_stream(config)


CASES = [
    pytest.param(NO_ROOM, nothing, {}, "set CALLBOARD_STREAM_MAX_BYTES to less", id="no room"),
    pytest.param(ONE_STREAM_OF_50_MB, nothing, {}, "set CALLBOARD_STREAM_MAX_BYTES to less", id="too large"),
    pytest.param(
        {}, nothing, {"stream_replicas": 3}, "set CALLBOARD_STREAM_REPLICAS to", id="too few servers"
    ),
    pytest.param(
        {}, a_foreign_stream, {}, "Another stream in NATS has subjects of callboard.>", id="foreign"
    ),
    pytest.param(ONE_STREAM_OF_50_MB, another_stream, {}, "raise max_streams", id="too many streams"),
    pytest.param({}, one_in_memory, {}, "remove it, and it is made anew", id="cannot be changed"),
    pytest.param(
        {"jetstream {": "# jetstream {"}, nothing, {}, "NATS runs without JetStream", id="no JetStream"
    ),
]


@pytest.mark.parametrize(("changes", "prepare", "given", "sentence"), CASES)
async def test_a_stream_that_nats_refuses_is_one_sentence_with_what_to_change(
    changes: dict[str, str],
    prepare: Callable[[JetStreamContext], Awaitable[None]],
    given: dict[str, int],
    sentence: str,
    servers: Servers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soon = PATIENT.model_copy(update={"longest_pause_seconds": 0.01})
    attempts = 0
    real = Watch.look

    async def counted(watch: Watch, jetstream: JetStreamContext) -> bool:
        nonlocal attempts
        attempts += 1
        return await real(watch, jetstream)

    monkeypatch.setattr(Watch, "look", counted)
    async with nats_with(tmp_path, changes) as server:
        async with await nats.connect(server.url) as client:
            await prepare(client.jetstream(timeout=60))
        own = settings(Settings, servers, nats_url=server.url, bus=soon, **given)
        async with open_bus(own) as bus:
            await wait_until(lambda: attempts > 20)
            # What cannot be changed takes events all the same.
            assert bus.is_connected == (prepare is one_in_memory)
    told = [record.getMessage() for record in caplog.records if sentence in record.getMessage()]
    assert told, caplog.text
    assert len(told) < 5 < attempts  # once, and once a minute


async def test_events_wait_for_a_stream_that_is_refused_and_go_out_once_that_is_mended(
    servers: Servers, tmp_path: Path
) -> None:
    async with nats_with(tmp_path) as server, await nats.connect(server.url) as client:
        await a_foreign_stream(client.jetstream(timeout=60))
        own = settings(Settings, servers, nats_url=server.url, bus=PATIENT)
        mongo, database = connect(own, f"relay_{unique_id()}")
        async with mongo, open_bus(own) as bus:
            await migrate(database, (OUTBOX,))
            relay, event = Relay(Outbox(database), database), changed()
            async with background(partial(relay.outbox.relay, bus)):
                await relay.commit(event)
                stream = client.jetstream(timeout=60)

                async def was_tried() -> bool:
                    return (await stream.stream_info("OTHER")).state.messages > 0

                await wait_until(was_tried)
                assert not await relay.are_sent(event)
                await stream.delete_stream("OTHER")
                await wait_until(partial(relay.are_sent, event), 60)
        assert (await client.jetstream(timeout=60).stream_info(STREAM)).config.max_bytes == GIGABYTE


def test_what_is_logged_again_and_again_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("common.logs.time", clock)
    throttle = LogThrottle()
    assert [throttle.allows(text) for text in "aaba"] == [True, False, True, False]
    clock.now += 61
    assert [throttle.allows("a"), throttle.allows("a")] == [True, False]
