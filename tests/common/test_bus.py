"""What is published together, and when the relay publishes what is committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError
from prometheus_client import REGISTRY

from common.background import background
from common.bus import Bus
from common.errors import Unavailable
from common.events import Event, RankChanged, new_id
from common.messaging.limits import BusLimits
from common.mongo import Database, Session, connect, migrate, transaction
from common.outbox import OUTBOX, Outbox
from common.settings import Settings
from common.stream import STREAM
from tests.support import Servers, settings, unique_id, wait_until
from tests.support.nats_servers import nats_with

PATIENT = BusLimits(answer_seconds=30.0, publish_seconds=30.0)
"""Limits that a machine that pauses does not reach."""


class Large(Event):
    """An event that may be larger than NATS takes."""

    SUBJECT: ClassVar[str] = "callboard.test.something_large.v1"

    text: str


class Misnamed(Event):
    """An event whose subject NATS takes in no way."""

    SUBJECT: ClassVar[str] = "callboard.test.two words.v1"


@dataclass
class Relay:
    """An outbox in a database of its own, and the relay that empties it."""

    outbox: Outbox
    database: Database

    async def commit(self, *events: Event) -> None:
        """Store events as a use case does."""

        async def work(session: Session) -> None:
            await self.outbox.add(session, events)

        await transaction(self.database, work)
        self.outbox.wake()

    async def are_sent(self, *events: Event) -> bool:
        """Whether all of them were published."""
        sent = {"_id": {"$in": [event.id for event in events]}, "sent": True}
        return await self.database[OUTBOX.name].count_documents(sent) == len(events)


class Unheard(Event):
    """An event that no consumer asks for."""

    SUBJECT: ClassVar[str] = "callboard.test.nothing_happened.v1"


def changed() -> RankChanged:
    """An event that nobody here listens to."""
    return RankChanged(user=unique_id(), username="A", rank="Guest", rankid=0, version=1)


@asynccontextmanager
async def open_bus(own: Settings) -> AsyncIterator[Bus]:
    """A bus that runs."""
    bus = Bus(own, "test")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        await stack.enter_async_context(background(bus.run))
        yield bus


@asynccontextmanager
async def connected(servers: Servers, limits: BusLimits = PATIENT) -> AsyncIterator[Bus]:
    """A connection with which events can be published."""
    async with open_bus(settings(Settings, servers, bus=limits)) as bus:
        await wait_until(lambda: bus.is_connected)
        yield bus


@asynccontextmanager
async def relaying(servers: Servers, **limits: float) -> AsyncIterator[Relay]:
    """A relay at work that has looked at its outbox once."""
    client, database = connect(settings(Settings, servers), f"relay_{unique_id()}")
    async with client, connected(servers, PATIENT.model_copy(update=limits)) as bus:
        await migrate(database, (OUTBOX,))
        relay, left = Relay(Outbox(database), database), changed()
        await Relay(Outbox(database), database).commit(left)  # by another process: only a look finds it
        async with background(partial(relay.outbox.relay, bus)):
            await wait_until(partial(relay.are_sent, left))
            yield relay


async def test_each_of_the_events_published_together_is_told_what_became_of_it(servers: Servers) -> None:
    async with connected(servers) as bus:
        subjects = (Unheard.SUBJECT, "elsewhere.no_stream", Unheard.SUBJECT)
        events = [(new_id(), subject, b"{}", None) for subject in subjects]
        errors = await bus.publish_all([*events, events[-1]])
        assert isinstance(errors.pop(1), NoStreamResponseError)
        assert errors == [None] * 3
        with pytest.raises(NoStreamResponseError):
            await bus.publish(*events[1][:3])


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b'{"stream":"OTHER","seq":1}',
        b'{"stream":"CALLBOARD","seq":1,"error":{"code":400,"err_code":1,"description":"refused"}}',
    ],
)
async def test_only_an_acknowledgement_of_our_stream_counts_as_one(servers: Servers, answer: bytes) -> None:
    subject = f"odd.{unique_id()}"

    async def respond(message: Msg) -> None:
        await message.respond(answer)

    async with connected(servers) as bus, await nats.connect(servers.nats_url) as other:
        await other.subscribe(subject, cb=respond)
        await other.flush()
        (error,) = await bus.publish_all([(new_id(), subject, b"{}", None)])
    assert isinstance(error, NatsError)
    assert not isinstance(error, NatsTimeoutError)  # it was answered


async def test_without_a_connection_nothing_is_published(servers: Servers) -> None:
    bus = Bus(settings(Settings, servers), "test")
    with pytest.raises(Unavailable):
        await bus.publish_all([(new_id(), RankChanged.SUBJECT, b"{}", None)])


async def test_what_is_committed_is_published_without_waiting_for_a_look(servers: Servers) -> None:
    async with relaying(servers, relay_poll_seconds=600.0) as relay:
        events = [changed() for _ in range(600)]  # more than are published together
        await relay.commit(*events)
        await wait_until(partial(relay.are_sent, *events))


async def test_an_event_is_published_once_committed_though_others_woke_the_relay_before(
    servers: Servers,
) -> None:
    slow, quick = changed(), changed()
    async with (
        relaying(servers, relay_poll_seconds=600.0) as relay,
        relay.database.client.start_session() as session,
    ):
        async with await session.start_transaction():
            await relay.outbox.add(session, [slow])
            await relay.commit(quick)
            await wait_until(partial(relay.are_sent, quick))
        relay.outbox.wake()
        await wait_until(partial(relay.are_sent, slow))


async def test_the_relay_looks_for_what_others_left_however_often_it_is_woken(
    servers: Servers,
) -> None:
    async with (
        relaying(servers, relay_poll_seconds=0.1) as relay,
        relay.database.client.start_session() as session,
    ):

        async def keep_waking() -> None:
            while True:
                relay.outbox.wake()
                await asyncio.sleep(0)

        async with await session.start_transaction(), background(keep_waking):
            await relay.outbox.add(session, [changed()])  # so that there is something to ask for each time
            left = changed()
            await Relay(Outbox(relay.database), relay.database).commit(left)
            await wait_until(partial(relay.are_sent, left))


@asynccontextmanager
async def backlogged(servers: Servers, number: int) -> AsyncIterator[tuple[Relay, list[Unheard]]]:
    """So many events that wait in a new outbox, whose own relay does not run."""
    client, database = connect(settings(Settings, servers), f"relay_{unique_id()}")
    async with client:
        await migrate(database, (OUTBOX,))
        relay = Relay(Outbox(database), database)
        backlog = [Unheard() for _ in range(number)]
        for start in range(0, number, 960):
            await relay.commit(*backlog[start : start + 960])
        yield relay, backlog


async def test_one_of_several_relays_works_off_a_backlog_and_another_goes_on_when_it_ends(
    servers: Servers,
) -> None:
    looks = 0

    class Counted(Outbox):
        async def flush(self, bus: Bus) -> None:
            nonlocal looks
            looks += 1
            await super().flush(bus)

    async with connected(servers) as bus, backlogged(servers, 20 * 256) as (before, backlog):
        database = before.database

        def published() -> float:
            """By all, those included that another published as well."""
            labels = {"service": database.name}
            return REGISTRY.get_sample_value("callboard_events_published_total", labels) or 0

        async with AsyncExitStack() as first, AsyncExitStack() as others:
            await first.enter_async_context(background(partial(Counted(database).relay, bus)))
            await wait_until(lambda: published() > 0)
            for _ in range(2):
                await others.enter_async_context(background(partial(Counted(database).relay, bus)))
            await wait_until(lambda: published() > len(backlog) * 3 / 4, 60)
            await first.aclose()
            await wait_until(partial(before.are_sent, *backlog), 60)
        # A look costs what is found out to be another's: the slower the machine, the more looks there are.
        assert len(backlog) <= published() <= len(backlog) + looks * 2 * 256


async def test_what_relays_that_look_at_the_same_time_leave_to_each_other_is_published_at_the_next_look(
    servers: Servers,
) -> None:
    async with connected(servers) as bus, backlogged(servers, 3 * 256) as (before, backlog):
        database = before.database
        await asyncio.gather(*(Outbox(database).flush(bus) for _ in range(5)))
        await Outbox(database).flush(bus)
        assert await before.are_sent(*backlog)


async def test_events_that_nats_refuses_hold_up_no_other_and_are_named(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    misnamed = Misnamed()
    large = [Large(text="secret" * 1_000) for _ in range(300)]  # more than are published together
    refused = [misnamed, *large]
    async with (
        nats_with(tmp_path, {"server_name:": "max_payload: 4096\nserver_name:"}) as server,
        relaying(replace(servers, nats_url=server.url)) as relay,
    ):
        after = changed()
        await relay.commit(*refused, after)
        await wait_until(partial(relay.are_sent, after), 60)
        labels = {"service": relay.database.name}

        def are_counted() -> bool:
            return REGISTRY.get_sample_value("callboard_outbox_refused", labels) == len(refused)

        await wait_until(are_counted, 60)
        rows = relay.database[OUTBOX.name]
        assert await rows.count_documents({"sent": False}) == len(refused)
        row = await rows.find_one({"_id": large[0].id})
        assert row
        assert row["refused"] == f"{Large.SUBJECT}: nats: maximum payload exceeded"
        told = next(
            text for text in caplog.messages if "NATS refuses events" in text and "301 in all" in text
        )
        assert f"the first is {misnamed.id}: {Misnamed.SUBJECT}: nats: invalid subject" in told
        assert "secret" not in caplog.text
        later = changed()
        await relay.commit(later)
        await wait_until(partial(relay.are_sent, later), 60)


async def test_a_refusal_by_the_stream_of_one_event_is_its_own(servers: Servers, tmp_path: Path) -> None:
    async with nats_with(tmp_path) as server, connected(replace(servers, nats_url=server.url)) as bus:
        async with await nats.connect(server.url) as client:
            stream = client.jetstream(timeout=60)
            config = (await stream.stream_info(STREAM)).config
            await stream.update_stream(config.evolve(max_msg_size=1_000))
        payloads = (b"{}", b"x" * 2_000, b"{}")
        errors = await bus.publish_all([(new_id(), Unheard.SUBJECT, payload, None) for payload in payloads])
        assert (errors[0], errors[2]) == (None, None)
        assert errors[1] and bus.is_own_refusal(errors[1])


@pytest.mark.parametrize("error", [NatsTimeoutError(), NoStreamResponseError(), ServiceUnavailableError()])
def test_what_concerns_all_events_is_no_refusal_of_one(error: NatsError) -> None:
    assert not Bus.is_own_refusal(error)
