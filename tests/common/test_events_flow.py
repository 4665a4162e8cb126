"""From the outbox over NATS to a handler: at least once, whatever fails in between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import nats
import pymongo
import pytest
from fastapi import FastAPI
from nats.aio.client import Client
from nats.errors import OutboundBufferLimitError
from nats.js.errors import NotFoundError
from prometheus_client import REGISTRY
from pymongo.errors import ConnectionFailure

from common.app import create_app
from common.consumer import _left_to_others_seconds
from common.dead_letters import DEAD_LETTERS
from common.errors import Unavailable
from common.events import ApplicationSubmitted, Event, RankChanged, new_id
from common.messaging.handling import Handled, Handler, Outcome
from common.messaging.limits import ConsumerLimits
from common.mongo import Database, Session, connect, migrate, transaction
from common.outbox import OUTBOX, Outbox
from common.service import Chassis, Service
from common.settings import Settings
from common.stream import STREAM
from tests.common.test_bus import PATIENT, connected
from tests.support import Servers, settings, unique_id, wait_until


@dataclass
class Listener:
    """A service that remembers what it was told, and fails as it is asked to."""

    outbox: Outbox
    database: Database
    heard: list[Event] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    fails: dict[int, Exception] = field(default_factory=dict)
    failures: Counter[int] = field(default_factory=Counter)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_held: bool = False
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def hear(self, events: Sequence[RankChanged]) -> list[Outcome]:
        """The handler."""
        self.attempts.append(len(events))
        if self.is_held:
            self.batches.append(0)
            await self.gate.wait()
        for event in events:
            if event.user in self.fails:
                self.failures[event.user] += 1
                raise self.fails[event.user]
        self.batches.append(len(events))
        self.heard += events
        return [Handled.DONE for _ in events]

    async def write_slowly(self, events: Sequence[RankChanged]) -> list[Outcome]:
        """A handler whose MongoDB takes 5 ms for each event from now on, and has half a second."""
        new = [{"_id": event.id} for event in events if event.occurred_at >= self.began_at]
        if not new:
            return [Handled.DONE for _ in events]
        self.attempts.append(len(new))

        async def work(session: Session) -> None:
            await self.database["slow"].insert_many(new, session=session)
            pause = {"$where": f"sleep({5 * len(new)}) || true", "_id": new[0]["_id"]}
            await self.database["slow"].find_one(pause, session=session)

        with pymongo.timeout(0.5):
            await transaction(self.database, work)
        return [Handled.DONE for _ in events]

    def users(self) -> list[int]:
        """Whom was heard of, in order."""
        return [event.user for event in self.heard if isinstance(event, RankChanged)]

    async def tell(self, *events: Event) -> None:
        """Store events as a use case does."""

        async def work(session: Session) -> None:
            await self.outbox.add(session, events)

        await transaction(self.database, work)
        self.outbox.wake()


def changed(user: int, **given: Any) -> RankChanged:
    """An event about this user."""
    return RankChanged(**{"user": user, "username": "A", "rank": "Guest", "rankid": 0, "version": 1} | given)


HANDLERS: Mapping[type[Event], Handler] = {RankChanged: Listener.hear}
NAMES = (f"flow_{unique_id()}" for _ in iter(int, 1))


@asynccontextmanager
async def listening(
    servers: Servers,
    name: str,
    handlers: Mapping[type[Event], Handler] = HANDLERS,
    *,
    is_held: bool = False,
    consumer: ConsumerLimits = ConsumerLimits(),  # noqa: B008 - it is frozen
    **limits: float,
) -> AsyncIterator[Listener]:
    """A service of this name on the real chassis."""
    own = settings(Settings, servers, bus=PATIENT.model_copy(update=limits), consumer=consumer)
    client, database = connect(own, name)
    async with client:
        await migrate(database, (OUTBOX, DEAD_LETTERS))

    @asynccontextmanager
    async def open_service(chassis: Chassis[Settings]) -> AsyncIterator[Listener]:
        yield Listener(chassis.outbox, chassis.database, is_held=is_held)

    app: FastAPI = create_app(
        Service(name, Settings, open_service, publishes=[RankChanged], handles=handlers), own
    )
    async with app.router.lifespan_context(app):
        yield app.state.service


async def test_a_stored_event_reaches_the_handler_and_is_marked_sent(servers: Servers) -> None:
    user = unique_id()
    async with listening(servers, next(NAMES)) as listener:
        event = changed(user)
        await listener.tell(event)
        await wait_until(lambda: user in listener.users())

        async def is_marked() -> bool:
            row = await listener.database["outbox"].find_one({"_id": event.id})
            return row is not None and row["sent"] and "sent_at" in row

        await wait_until(is_marked)


async def test_what_a_crash_left_in_the_outbox_is_published_by_the_next_start(servers: Servers) -> None:
    name, user = next(NAMES), unique_id()
    own = settings(Settings, servers)
    client, database = connect(own, name)
    async with client:
        await migrate(database, (OUTBOX, DEAD_LETTERS))

        async def work(session: Session) -> None:
            await Outbox(database).add(session, [changed(user)])

        await transaction(database, work)
    async with listening(servers, name) as listener:
        await wait_until(lambda: user in listener.users())


async def test_a_replica_leaves_what_it_does_not_know_to_those_of_a_newer_version(
    servers: Servers,
) -> None:
    soon = ConsumerLimits(longest_left_to_others_seconds=1.0)
    name = next(NAMES)
    newer: Mapping[type[Event], Handler] = {**HANDLERS, ApplicationSubmitted: Listener.hear}
    client = await nats.connect(servers.nats_url)

    async def asks_for(number: int) -> bool:
        with suppress(NotFoundError):
            consumer = await client.jetstream(timeout=60).consumer_info(STREAM, name)
            return len(consumer.config.filter_subjects or ()) == number
        return False

    async with client, listening(servers, name, consumer=soon) as old:
        await wait_until(partial(asks_for, 1))
        async with listening(servers, name, newer, consumer=soon) as new:
            await wait_until(partial(asks_for, 2))
            new.is_held = True  # so that the other gets some
            events = [ApplicationSubmitted(application="a", user=unique_id(), url="u") for _ in range(600)]
            await old.tell(*events)
            await wait_until(lambda: sample("callboard_events_redelivered_total", service=name) > 0, 60)
            new.gate.set()
            await wait_until(lambda: {event.id for event in events} <= {event.id for event in new.heard}, 60)
        assert all(isinstance(event, RankChanged) for event in old.heard)


class Newer(Event):
    """An event that only a newer version knows."""

    SUBJECT: ClassVar[str] = "callboard.test.something_newer.v1"

    user: int = 1


NEWER: Mapping[type[Event], Handler] = {**HANDLERS, Newer: Listener.hear}


async def test_a_replica_of_an_older_version_that_starts_last_takes_no_event_from_the_newer_one(
    servers: Servers,
) -> None:
    soon = ConsumerLimits(longest_left_to_others_seconds=0.1)
    name, user = next(NAMES), unique_id()
    async with listening(servers, name, NEWER) as new:
        await new.tell(changed(user))
        await wait_until(lambda: user in new.users())
        async with listening(servers, name, consumer=soon) as old:
            new.is_held = True  # so that the other takes part
            users = [unique_id() for _ in range(600)]
            await new.tell(*map(changed, users))
            await wait_until(lambda: bool(old.heard), 60)
            new.is_held = False
            new.gate.set()
            events = [Newer() for _ in range(20)]
            await new.tell(*events)
            await wait_until(lambda: {event.id for event in events} <= {event.id for event in new.heard}, 60)


async def test_what_nobody_handles_after_going_back_to_an_older_version_holds_up_nothing(
    servers: Servers,
) -> None:
    name, first, last = next(NAMES), unique_id(), unique_id()
    async with listening(servers, name, NEWER) as new:
        await new.tell(changed(first))
        await wait_until(lambda: first in new.users())
    async with connected(servers) as bus, listening(servers, name) as old:
        for _ in range(36):  # more than NATS, by itself or as it once was told to, leaves unacknowledged
            events = [(new_id(), Newer.SUBJECT, Newer().model_dump_json().encode(), None) for _ in range(250)]
            assert await bus.publish_all(events) == [None] * 250
        await old.tell(changed(last))
        await wait_until(lambda: last in old.users(), 120)


def test_what_no_handler_takes_is_put_off_for_a_second_first_and_for_an_hour_in_the_end() -> None:
    limits = ConsumerLimits()
    seconds = [_left_to_others_seconds(deliveries, limits) for deliveries in range(1, 10_000)]
    assert seconds[:7] == [1, 1, 1, 1, 1, 2, 4]
    assert seconds == sorted(seconds)
    assert seconds[-1] == 3600


async def test_many_events_come_in_few_batches(servers: Servers) -> None:
    users = [unique_id() for _ in range(400)]
    async with listening(servers, next(NAMES)) as listener:
        await listener.tell(*map(changed, users))
        await wait_until(lambda: set(users) <= set(listener.users()))
        assert max(listener.batches) > 10


async def test_two_replicas_share_the_work(servers: Servers) -> None:
    name, users = next(NAMES), [unique_id() for _ in range(50)]
    async with listening(servers, name) as one, listening(servers, name) as other:
        await one.tell(*map(changed, users))
        await wait_until(lambda: set(users) <= set(one.users()) | set(other.users()))
        assert not set(users) & set(one.users()) & set(other.users())


async def test_a_stop_finishes_what_was_begun_and_leaves_the_rest_to_the_next_at_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine may pause for longer than a stop may take.
    monkeypatch.setattr("common.background._SECONDS_BETWEEN_CANCELLATIONS", 30.0)
    start = partial(listening, servers, finish_seconds=30.0, ack_wait_seconds=300.0)
    name, events = next(NAMES), [changed(unique_id()) for _ in range(400)]
    async with start(name) as listener:
        listener.is_held = True
        await listener.tell(*events)
        await wait_until(lambda: bool(listener.batches))
        asyncio.get_running_loop().call_later(0.2, listener.gate.set)
    begun = listener.heard
    assert begun
    async with start(name) as following:

        def heard() -> list[str]:
            return [event.id for event in begun + following.heard]

        told = {event.id for event in events}
        await wait_until(lambda: told <= set(heard()), 60)
        assert max(Counter(heard()).values()) == 1


async def test_what_came_before_a_request_for_more_fails_is_handled_all_the_same(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, has_failed = Client.publish, False
    async with listening(servers, next(NAMES), ack_wait_seconds=300.0) as listener:
        await listener.tell(changed(unique_id()))
        await wait_until(lambda: bool(listener.heard))

        async def publish(client: Client, subject: str, *args: Any, **kwargs: Any) -> None:
            nonlocal has_failed
            if subject.startswith("$JS.API.CONSUMER.MSG.NEXT.") and not has_failed:
                has_failed = True
                raise OutboundBufferLimitError
            await real(client, subject, *args, **kwargs)

        monkeypatch.setattr(Client, "publish", publish)
        users = [unique_id() for _ in range(600)]  # more than one request is for
        await listener.tell(*map(changed, users))
        await wait_until(lambda: set(users) <= set(listener.users()), 60)
        assert has_failed


async def test_what_came_with_an_event_that_cannot_be_put_aside_comes_again_at_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0

    async def keep_not(*_: Any) -> None:
        nonlocal failures
        failures += 1
        monkeypatch.undo()
        raise ValueError("a bug")

    async with listening(servers, next(NAMES), NEWER, ack_wait_seconds=300.0) as listener:
        listener.is_held = True  # until there are so many that they come together
        await listener.tell(changed(unique_id()))
        await wait_until(lambda: bool(listener.batches))
        monkeypatch.setattr("common.consumer.keep", keep_not)
        async with await nats.connect(servers.nats_url) as client:
            await client.jetstream(timeout=60).publish(
                RankChanged.SUBJECT, b"{", headers={"Nats-Msg-Id": str(unique_id())}
            )
        users = [unique_id() for _ in range(50)]
        await listener.tell(*map(changed, users), *(Newer(user=user) for user in users))

        async def are_published() -> bool:
            return not await listener.database["outbox"].count_documents({"sent": False})

        await wait_until(are_published)
        listener.is_held = False
        listener.gate.set()

        def heard(kind: type[Event]) -> set[int]:
            found = (event for event in listener.heard if isinstance(event, RankChanged | Newer))
            return {event.user for event in found if isinstance(event, kind)}

        await wait_until(lambda: set(users) <= heard(RankChanged) & heard(Newer), 60)
        assert failures == 1


@asynccontextmanager
async def coming_together(
    servers: Servers,
    events: Sequence[Event],
    handlers: Mapping[type[Event], Handler] = HANDLERS,
) -> AsyncIterator[Listener]:
    """A service to which these events come in one batch, and what fails comes again soon."""
    soon = ConsumerLimits(longest_pause_seconds=0.1, longest_put_off_seconds=0.1)
    async with listening(servers, next(NAMES), {**handlers, Newer: Listener.hear}, consumer=soon) as listener:
        listener.is_held = True
        await listener.tell(Newer())
        await wait_until(lambda: bool(listener.batches))
        await listener.tell(*events)

        async def are_published() -> bool:
            return not await listener.database["outbox"].count_documents({"sent": False})

        await wait_until(are_published)
        listener.is_held = False
        listener.attempts.clear()
        listener.gate.set()
        yield listener


def times_heard(listener: Listener, events: Sequence[RankChanged]) -> set[int]:
    """How often each of these events was handled."""
    heard = Counter(event.id for event in listener.heard)
    return {heard[event.id] for event in events}


async def letters(listener: Listener, events: Sequence[Event]) -> set[str]:
    """Which of these events are dead letters; the stream holds those of other tests too."""
    found = listener.database["dead_letters"].find({"_id": {"$in": [event.id for event in events]}})
    return {letter["_id"] async for letter in found}


async def test_an_event_that_fails_for_ever_among_many_is_buried_and_the_others_are_handled_once(
    servers: Servers,
) -> None:
    events = [changed(unique_id()) for _ in range(256)]
    bad, *good = events
    async with coming_together(servers, [*good[:100], bad, *good[100:]]) as listener:
        listener.fails[bad.user] = ValueError("a bug")

        async def is_buried() -> bool:
            letter = await listener.database["dead_letters"].find_one({"_id": bad.id})
            return letter is not None and "10 times: ValueError: a bug" in letter["reason"]

        await wait_until(is_buried, 60)
        await wait_until(lambda: times_heard(listener, good) == {1})
        assert max(listener.attempts) > 100
        assert await letters(listener, events) == {bad.id}
        # It comes again alone: with the others once, and alone each time.
        assert listener.failures[bad.user] < ConsumerLimits().failures_to_dead_letter + 5


async def test_an_event_that_alone_is_refused_waits_alone_for_as_long_as_it_takes(servers: Servers) -> None:
    events = [changed(unique_id()) for _ in range(100)]
    refused, *good = events
    async with coming_together(servers, [*good[:50], refused, *good[50:]]) as listener:
        listener.fails[refused.user] = Unavailable("a service")
        await wait_until(lambda: times_heard(listener, good) == {1})
        patience = 2 * ConsumerLimits().failures_to_dead_letter
        await wait_until(lambda: listener.failures[refused.user] > patience, 60)
        assert max(listener.attempts) > 10
        listener.fails.clear()
        await wait_until(lambda: times_heard(listener, [refused]) == {1})
        assert times_heard(listener, good) == {1}
        assert not await letters(listener, events)


async def test_a_database_that_is_too_slow_for_a_batch_gets_it_in_parts(servers: Servers) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    events = [changed(unique_id(), occurred_at=soon) for _ in range(256)]
    async with coming_together(servers, events, {RankChanged: Listener.write_slowly}) as listener:

        async def are_written() -> bool:
            ids = {"_id": {"$in": [event.id for event in events]}}
            return await listener.database["slow"].count_documents(ids) == len(events)

        await wait_until(are_written, 120)
        assert max(listener.attempts) > 100  # which take longer than half a second
        assert not await letters(listener, events)


async def test_a_handler_that_fails_holds_up_no_other_event_and_ends_in_the_dead_letters(
    servers: Servers,
) -> None:
    bad, good = unique_id(), unique_id()
    soon = ConsumerLimits(longest_pause_seconds=0.1)
    async with listening(servers, next(NAMES), consumer=soon) as listener:
        listener.fails[bad] = ValueError("a bug")
        event = changed(bad)
        await listener.tell(event, changed(good))
        await wait_until(lambda: good in listener.users())

        async def is_buried() -> bool:
            letter = await listener.database["dead_letters"].find_one({"_id": event.id})
            return letter is not None and "10 times: ValueError: a bug" in letter["reason"]

        await wait_until(is_buried)
        assert bad not in listener.users()


async def test_an_outage_makes_no_dead_letter_however_long_it_lasts(servers: Servers) -> None:
    user = unique_id()
    soon = ConsumerLimits(longest_pause_seconds=0.01)
    async with listening(servers, next(NAMES), consumer=soon) as listener:
        listener.fails[user] = ConnectionFailure("the primary is away")
        event = changed(user)
        await listener.tell(event)
        await wait_until(lambda: listener.failures[user] > 3 * soon.failures_to_dead_letter, 60)
        listener.fails.clear()
        await wait_until(lambda: user in listener.users())
        assert await listener.database["dead_letters"].count_documents({"_id": event.id}) == 0


async def test_an_event_that_is_invalid_in_itself_goes_to_the_dead_letters_at_once(servers: Servers) -> None:
    async with listening(servers, next(NAMES)) as listener:
        client = await nats.connect(servers.nats_url)
        marker = str(unique_id())
        await client.jetstream(timeout=60).publish(
            RankChanged.SUBJECT, b'{"user":"x"}', headers={"Nats-Msg-Id": marker}
        )
        await client.close()

        async def is_buried() -> bool:
            letter = await listener.database["dead_letters"].find_one({"_id": marker})
            return letter is not None and letter["payload"] == b'{"user":"x"}' and "user" in letter["reason"]

        await wait_until(is_buried)


async def test_a_lost_stream_is_made_anew_and_events_flow_again(servers: Servers) -> None:
    before, user = unique_id(), unique_id()
    async with listening(servers, next(NAMES)) as listener:
        await listener.tell(changed(before))
        await wait_until(lambda: before in listener.users())
        client = await nats.connect(servers.nats_url)
        await client.jetstream(timeout=60).delete_stream(STREAM)
        await client.close()
        await listener.tell(changed(user))
        await wait_until(lambda: user in listener.users(), 60)


async def test_an_event_of_another_kind_is_left_to_others(servers: Servers) -> None:
    user = unique_id()
    async with listening(servers, next(NAMES)) as listener:
        await listener.tell(ApplicationSubmitted(application="a", user=user, url="u"), changed(user))
        await wait_until(lambda: user in listener.users())
        assert all(isinstance(event, RankChanged) for event in listener.heard)


def sample(name: str, **labels: str) -> float:
    """What this process shows Prometheus; -1 while it shows nothing of the kind."""
    value = REGISTRY.get_sample_value(name, labels)
    return -1 if value is None else value


async def test_the_time_since_an_event_occurred_is_measured_when_it_is_handled(servers: Servers) -> None:
    name, user = next(NAMES), unique_id()
    async with listening(servers, name) as listener:
        await listener.tell(changed(user, occurred_at=datetime.now(UTC) - timedelta(hours=2)), changed(user))

        def more_than_an_hour() -> float:
            metric, labels = (
                "callboard_event_delay_seconds",
                {"service": name, "subject": RankChanged.SUBJECT},
            )
            return sample(f"{metric}_count", **labels) - sample(f"{metric}_bucket", **labels, le="3600.0")

        await wait_until(lambda: more_than_an_hour() == 1)


async def test_what_an_alert_watches_is_there_before_anything_happens(servers: Servers) -> None:
    name = next(NAMES)
    async with listening(servers, name):
        assert sample("callboard_dead_letters_total", service=name) == 0
        assert sample("callboard_events_handled_total", service=name, subject=RankChanged.SUBJECT) >= 0


async def test_many_replicas_have_their_hands_full_at_the_same_time(servers: Servers) -> None:
    name = next(NAMES)
    async with AsyncExitStack() as stack:
        teller = await stack.enter_async_context(listening(servers, next(NAMES)))
        await teller.tell(*(changed(unique_id()) for _ in range(2_000)))

        async def are_published() -> bool:
            return not await teller.database["outbox"].count_documents({"sent": False})

        # Before anybody is held, who can ask for no more: a request ends after a while, with what came until then.
        await wait_until(are_published, 60)
        replicas = [await stack.enter_async_context(listening(servers, name, is_held=True)) for _ in range(6)]
        client = await nats.connect(servers.nats_url)
        stack.push_async_callback(client.close)

        async def are_busy() -> bool:
            with suppress(NotFoundError):  # which is there a moment after its replicas
                consumer = await client.jetstream(timeout=60).consumer_info(STREAM, name)
                return (consumer.num_ack_pending or 0) > 1_000
            return False

        await wait_until(are_busy, 60)
        for replica in replicas:
            replica.gate.set()
