"""What goes wrong between a service and NATS is named, and heals without a restart."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from callboard.servers import nats_server
from common.bus import Bus
from common.events import Event, RankChanged
from common.messaging.handling import Handler
from common.messaging.troubles import Troubles
from common.messaging.watch import consumer_config
from common.settings import Settings
from common.stream import STREAM
from tests.common.test_bus import PATIENT
from tests.common.test_events_flow import HANDLERS, NAMES, NEWER, Listener, Newer, changed, listening, sample
from tests.support import Servers, settings, unique_id, wait_until
from tests.support.clock import Clock
from tests.support.nats_servers import OwnServer, nats_with

REVOKED = {"user: callboard": "user: somebody_else"}


def trouble(service: str, what: str) -> float:
    """What Prometheus is shown."""
    return sample("callboard_bus_trouble", service=service, what=what)


async def is_heard(listener: Listener, *events: Event) -> bool:
    """Whether each of these was handled."""
    return {event.id for event in events} <= {event.id for event in listener.heard}


async def hears(listener: Listener, *events: Event) -> None:
    """Return once each of these, which are told now, was handled."""
    await listener.tell(*events)
    await wait_until(partial(is_heard, listener, *events), 60)


def heard_once(listener: Listener) -> bool:
    """Whether nothing was handled twice."""
    return set(Counter(event.id for event in listener.heard).values()) == {1}


@asynccontextmanager
async def listening_alone(
    servers: Servers, folder: Path, handlers: Mapping[type[Event], Handler] = HANDLERS
) -> AsyncIterator[tuple[Listener, OwnServer, str]]:
    """A service that has handled an event, on a NATS of its own; and its name."""
    name = next(NAMES)
    async with (
        nats_with(folder) as server,
        # An acknowledgement may be lost with a connection, and what it was for comes again after this long.
        listening(replace(servers, nats_url=server.url), name, handlers, ack_wait_seconds=300.0) as listener,
    ):
        await hears(listener, changed(unique_id()))
        yield listener, server, name


@asynccontextmanager
async def jetstream(url: str) -> AsyncIterator[JetStreamContext]:
    """NATS as an operator sees it."""
    async with await nats.connect(url) as client:
        yield client.jetstream(timeout=60)


async def asks_for(stream: JetStreamContext, consumer: str, subjects: Sequence[str]) -> bool:
    """Whether this is the filter of the consumer."""
    with suppress(NotFoundError):
        found = (await stream.consumer_info(STREAM, consumer)).config.filter_subjects
        return sorted(found or ()) == sorted(subjects)
    return False


# -------------------------------------------------------------------------------------- the connection


async def test_a_user_that_is_revoked_and_given_back_by_a_reload_costs_no_event_and_no_restart(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening_alone(servers, tmp_path) as (listener, server, name):
        server.reload(REVOKED)
        await wait_until(lambda: trouble(name, "connection") == 1)
        waiting = [changed(unique_id()) for _ in range(50)]
        await listener.tell(*waiting)
        await wait_until(lambda: "NATS refuses this service ('Authorization Violation')" in caplog.text)
        server.reload()
        await wait_until(partial(is_heard, listener, *waiting), 60)
        await hears(listener, changed(unique_id()))
        assert trouble(name, "connection") == 0
        assert heard_once(listener)
    assert "NATS is right again: this service is connected." in caplog.text
    assert "a background task failed" not in caplog.text


async def test_a_service_that_starts_before_nats_does_says_so_and_goes_on_once_it_is_there(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, url = next(NAMES), nats_server(tmp_path).url
    async with listening(replace(servers, nats_url=url), name) as listener:
        await wait_until(lambda: trouble(name, "connection") == 1)
        waiting = [changed(unique_id()) for _ in range(50)]
        await listener.tell(*waiting)
        async with nats_with(tmp_path):  # on the port that is remembered there
            await wait_until(partial(is_heard, listener, *waiting), 60)
            await wait_until(lambda: trouble(name, "connection") == 0)
            assert heard_once(listener)
    assert "NATS does not answer (ConnectionRefusedError): start it, or correct" in caplog.text


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    """The connections to NATS that the product begins."""
    begun: list[Client] = []

    class Noted(Client):
        def __init__(self) -> None:
            super().__init__()
            begun.append(self)

    monkeypatch.setattr("common.bus.Client", Noted)
    return begun


async def test_a_client_that_closed_itself_is_replaced_at_once(
    servers: Servers, clients: list[Client]
) -> None:
    async with listening(servers, next(NAMES), ack_wait_seconds=300.0) as listener:
        await hears(listener, changed(unique_id()))
        await clients[0].close()  # as it does itself when NATS tells it an error
        await hears(listener, changed(unique_id()))
        assert len(clients) == 2
        assert heard_once(listener)


async def test_what_was_handled_when_the_connection_went_away_comes_again_and_nothing_fails(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture, clients: list[Client]
) -> None:
    name, held = next(NAMES), changed(unique_id())
    async with (
        nats_with(tmp_path) as server,
        listening(
            replace(servers, nats_url=server.url), name, is_held=True, ack_wait_seconds=1.0
        ) as listener,
    ):
        await listener.tell(held)
        await wait_until(lambda: bool(listener.batches))
        server.reload(REVOKED)
        await wait_until(lambda: clients[0].is_closed)
        listener.is_held = False
        listener.gate.set()
        await wait_until(partial(is_heard, listener, held))
        await wait_until(lambda: "NATS was not told what was handled" in caplog.text)
        server.reload()
        await wait_until(lambda: [event.id for event in listener.heard].count(held.id) > 1, 60)
    assert "a background task failed" not in caplog.text


# ------------------------------------------------------------------------------ the stream and the consumer


async def test_a_stream_that_goes_away_while_nothing_happens_is_made_anew(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        listening_alone(servers, tmp_path, NEWER) as (listener, server, name),
        jetstream(server.url) as stream,
    ):
        await stream.delete_stream(STREAM)
        await wait_until(partial(asks_for, stream, name, [model.SUBJECT for model in NEWER]))
        await hears(listener, changed(unique_id()), Newer())
        assert heard_once(listener)
        assert trouble(name, "stream") == 0
    assert f"The stream {STREAM} was gone from NATS, and is made anew, empty" in caplog.text


async def test_a_consumer_that_was_deleted_is_made_anew_and_misses_nothing(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        listening_alone(servers, tmp_path) as (listener, server, name),
        jetstream(server.url) as stream,
    ):
        missed = [changed(unique_id()) for _ in range(50)]
        await stream.delete_consumer(STREAM, name)
        await hears(listener, *missed)
        await wait_until(lambda: trouble(name, "consumer") == 0)
    assert f"The consumer {name} was gone from NATS" in caplog.text


async def test_a_filter_that_another_version_narrowed_is_widened_again(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        listening_alone(servers, tmp_path, NEWER) as (listener, server, name),
        jetstream(server.url) as stream,
    ):
        # As a release did that knew no other, and as two of two versions can that start in the same millisecond.
        await stream.add_consumer(STREAM, consumer_config(name, [RankChanged.SUBJECT], PATIENT))
        await wait_until(partial(asks_for, stream, name, [model.SUBJECT for model in NEWER]))
        await hears(listener, changed(unique_id()), *(Newer() for _ in range(20)))
        assert heard_once(listener)
    assert f"The consumer {name} did not ask for {Newer.SUBJECT} any more" in caplog.text


async def test_subjects_without_a_handler_are_named_until_a_migration_takes_them_out(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = next(NAMES)
    async with nats_with(tmp_path) as server, jetstream(server.url) as stream:
        own = replace(servers, nats_url=server.url)
        async with listening(own, name, NEWER) as new:
            await hears(new, Newer())
            assert trouble(name, "unhandled") == 0
        async with listening(own, name) as old:
            await wait_until(lambda: trouble(name, "unhandled") == 1)
            await hears(old, changed(unique_id()))
            await stream.add_consumer(STREAM, consumer_config(name, [RankChanged.SUBJECT], PATIENT))
            await wait_until(lambda: trouble(name, "unhandled") == 0)
    assert f"The consumer {name} asks for {Newer.SUBJECT}, which this version does not handle" in caplog.text


# ---------------------------------------------------------------------------------- a consumer that is paused


def later(**given: float) -> str:
    """A time from now, as NATS writes it."""
    return (datetime.now(UTC) + timedelta(**given)).isoformat()


async def test_a_paused_consumer_stays_paused_is_named_and_goes_on_when_it_is_resumed(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = next(NAMES)
    async with nats_with(tmp_path) as server, jetstream(server.url) as stream:
        own = replace(servers, nats_url=server.url)
        async with listening(own, name) as old:
            await hears(old, changed(unique_id()))
        await stream.pause_consumer(STREAM, name, later(hours=1))
        # Neither a start nor a wider filter ends what the operator began.
        async with listening(own, name, NEWER) as listener:
            await wait_until(lambda: trouble(name, "paused") == 1)
            waiting = [changed(unique_id()), Newer()]
            await listener.tell(*waiting)
            consumer = await stream.consumer_info(STREAM, name)
            assert consumer.paused
            assert len(consumer.config.filter_subjects or ()) == 2
            assert not listener.heard
            await stream.resume_consumer(STREAM, name)
            await wait_until(partial(is_heard, listener, *waiting), 60)
            await wait_until(lambda: trouble(name, "paused") == 0)
            assert heard_once(listener)
    assert f"The consumer {name} is paused in NATS until 2" in caplog.text
    assert f"`nats consumer resume {STREAM} {name}`" in caplog.text


async def test_events_come_by_themselves_when_a_pause_ends(servers: Servers, tmp_path: Path) -> None:
    async with (
        listening_alone(servers, tmp_path) as (listener, server, name),
        jetstream(server.url) as stream,
    ):
        await stream.pause_consumer(STREAM, name, later(seconds=2))
        await hears(listener, *(changed(unique_id()) for _ in range(20)))
        assert heard_once(listener)


# ------------------------------------------------------------------------------------------- no room, and others


async def test_a_service_that_starts_before_there_is_room_for_the_stream_goes_on_once_there_is(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, room = next(NAMES), {"sync_interval: always": "sync_interval: always, max_file_store: 1500M"}
    async with nats_with(tmp_path, room) as server, jetstream(server.url) as stream:
        await stream.add_stream(StreamConfig(name="OTHER", subjects=["other.>"], max_bytes=1 << 30))
        async with listening(replace(servers, nats_url=server.url), name) as listener:
            waiting = [changed(unique_id()) for _ in range(50)]
            await listener.tell(*waiting)
            await wait_until(lambda: trouble(name, "stream") == 1)
            await stream.delete_stream("OTHER")
            await wait_until(partial(is_heard, listener, *waiting), 60)
            await wait_until(lambda: trouble(name, "stream") == 0)
            assert heard_once(listener)
    assert f"NATS has no room for the stream {STREAM} of {1 << 30} bytes" in caplog.text


async def test_a_stream_that_somebody_changed_is_named_and_not_changed_back(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        listening_alone(servers, tmp_path) as (listener, server, name),
        jetstream(server.url) as stream,
    ):
        config = (await stream.stream_info(STREAM)).config
        await stream.update_stream(config.evolve(max_bytes=2 << 30))
        await wait_until(lambda: trouble(name, "stream") == 1)
        await hears(listener, changed(unique_id()))
        assert (await stream.stream_info(STREAM)).config.max_bytes == 2 << 30
        await stream.update_stream(config)
        await wait_until(lambda: trouble(name, "stream") == 0)
    assert f"CALLBOARD_STREAM_MAX_BYTES: {2 << 30} instead of {1 << 30}" in caplog.text


def test_a_trouble_that_comes_and_goes_is_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr("common.logs.time", clock)
    troubles, name = Troubles(next(NAMES)), "common.messaging.troubles"
    for _ in range(2):
        for _ in range(10):
            for sentence in ("It is away.", "It is slow.", None):
                troubles.note("connection", sentence)
        clock.now += 61
    lines = ["It is away.", "It is slow.", "NATS is right again: this service is connected."]
    assert [record.getMessage() for record in caplog.records if record.name == name] == lines * 2


def test_what_an_alert_watches_is_there_before_anything_is_wrong(servers: Servers) -> None:
    name = next(NAMES)
    Bus(settings(Settings, servers), name)
    for what in ("connection", "stream", "consumer", "paused", "unhandled"):
        assert trouble(name, what) == 0
