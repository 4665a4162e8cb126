"""NATS JetStream: the stream, publishing, and consuming with acknowledgements and dead letters.

Delivery is at least once: whatever a handler does must be safe to do again.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NoStreamResponseError, NotFoundError, ServiceUnavailableError

from common import metrics
from common.errors import InvalidEvent, ServiceError, Unavailable
from common.events import Event, parse_event
from common.mongo import Collection, Database, is_outage
from common.settings import Settings

logger = logging.getLogger(__name__)

STREAM = "CALLBOARD"
SUBJECTS = "callboard.>"
DEAD_LETTERS = Collection("dead_letters")

ACK_WAIT_SECONDS = 30.0
BATCH = 256
FAILURES_TO_DEAD_LETTER = 10
_PULL_SECONDS = 5.0
_FINISH_SECONDS = 1.0
_NO_ROOM = 10077  # NATS's code for a stream that has reached its max_bytes
_LONGEST_PAUSE_SECONDS = 5.0

Handler = Callable[[Any, Sequence[Any]], Awaitable[int]]
"""Handles a batch of one event class with the service's use cases; answers how many changed nothing."""


class Bus:
    """One connection to NATS, kept up for as long as `run` runs."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._client: Client | None = None
        self._stream_is_there = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether events can be published right now, as far as this end knows."""
        return self._client is not None and self._client.is_connected and self._stream_is_there.is_set()

    @property
    def _connection(self) -> Client:
        if self._client is None or not self._client.is_connected:
            raise Unavailable("nats")
        return self._client

    @property
    def _jetstream(self) -> JetStreamContext:
        return self._connection.jetstream(timeout=2)

    async def run(self) -> None:
        """Connect, and create the stream whenever it is not there; until cancelled."""
        self._client = await nats.connect(
            self._settings.nats_url.get_secret_value().split(","),
            name=self._service,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,
            connect_timeout=2,
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=self._note_error,
        )
        while True:
            if not self._stream_is_there.is_set():
                await self._ensure_stream()
            await asyncio.sleep(1 if self._stream_is_there.is_set() else 0.25)

    async def close(self) -> None:
        """Send what is buffered (acknowledgements) and disconnect."""
        if self._client is not None:
            try:
                await self._client.flush(1)
            except NatsError:
                logger.info("NATS is away; what was not acknowledged comes again")
            await self._client.close()

    async def publish(self, event_id: str, subject: str, payload: bytes) -> None:
        """Return once JetStream has stored the event, or has it already. Raises otherwise."""
        try:
            await self._jetstream.publish(subject, payload, headers={"Nats-Msg-Id": event_id})
        except NoStreamResponseError:
            self._stream_is_there.clear()
            raise
        except ServiceUnavailableError as error:
            if error.err_code != _NO_ROOM:
                self._stream_is_there.clear()
            raise

    async def batches(self, durable: str, subjects: Sequence[str]) -> AsyncGenerator[list[Msg], None]:
        """Messages of a durable pull consumer, as many at a time as are there, until cancelled.

        The client's own `fetch` waits for a batch to fill, so this speaks the pull protocol itself
        (NATS ADR-13): one request at a time, whose answers come to a private subject.
        """
        while True:
            await self._stream_is_there.wait()
            try:
                await self._ensure_consumer(durable, subjects)
                client = self._connection
                inbox = client.new_inbox()
                answers = await client.subscribe(inbox)
            except (NatsError, ServiceError, TimeoutError) as error:
                logger.warning("cannot consume yet: %s", type(error).__name__)
                await asyncio.sleep(0.5)
                continue
            try:
                async for messages in self._pull(client, durable, inbox, answers):
                    yield messages
            finally:
                if not client.is_closed:
                    await _give_back(answers)
                    await answers.unsubscribe()

    async def _pull(
        self, client: Client, durable: str, inbox: str, answers: Subscription
    ) -> AsyncIterator[list[Msg]]:
        request = json.dumps({"batch": BATCH, "expires": int(_PULL_SECONDS * 1e9)}).encode()
        while self._stream_is_there.is_set():
            await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{durable}", request, reply=inbox)
            remaining = BATCH
            deadline = time.monotonic() + _PULL_SECONDS + 1
            while remaining > 0:
                try:
                    message = await answers.next_msg(timeout=max(0.01, deadline - time.monotonic()))
                except NatsTimeoutError:
                    break  # the request was lost, with a connection for instance: ask again
                messages = [message]
                while answers.pending_msgs and len(messages) < remaining:
                    messages.append(await answers.next_msg(timeout=1))
                statuses = [m.headers["Status"] for m in messages if m.headers and "Status" in m.headers]
                messages = [m for m in messages if not (m.headers and "Status" in m.headers)]
                remaining -= len(messages)
                if messages:
                    yield messages
                if "503" in statuses or "404" in statuses:
                    return  # no such consumer or stream (any more): start over
                if statuses:
                    break  # the request ended: ask again

    async def _ensure_stream(self) -> None:
        wanted = StreamConfig(
            name=STREAM,
            subjects=[SUBJECTS],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=self._settings.stream_max_age_days * 86_400,
            max_bytes=self._settings.stream_max_bytes,
            num_replicas=self._settings.stream_replicas,
            duplicate_window=120,
        )
        try:
            try:
                found = (await self._jetstream.stream_info(STREAM)).config
            except NotFoundError:
                await self._jetstream.add_stream(wanted)
            else:
                checked = ("subjects", "discard", "max_age", "max_bytes", "num_replicas")
                if any(getattr(found, name) != getattr(wanted, name) for name in checked):
                    await self._jetstream.update_stream(wanted)
        except (NatsError, ServiceError, TimeoutError) as error:
            logger.warning("the stream cannot be checked yet: %s", type(error).__name__)
        else:
            self._stream_is_there.set()

    async def _ensure_consumer(self, durable: str, subjects: Sequence[str]) -> None:
        try:
            await self._jetstream.add_consumer(
                STREAM,
                ConsumerConfig(
                    durable_name=durable,
                    filter_subjects=sorted(subjects),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ACK_WAIT_SECONDS,
                    deliver_policy=DeliverPolicy.ALL,
                    max_deliver=-1,
                ),
            )
        except NotFoundError:
            self._stream_is_there.clear()
            raise

    async def _note_error(self, error: Exception) -> None:
        logger.warning("NATS: %s", type(error).__name__)


class Consumer:
    """A service's one consumer: hands events to their handlers and acknowledges what was done."""

    def __init__(
        self,
        bus: Bus,
        service: str,
        database: Database,
        handlers: Mapping[type[Event], Handler],
        use_cases: Any,
    ) -> None:
        self._bus = bus
        self._service = service
        self._dead_letters = database[DEAD_LETTERS.name]
        self._models = {model.SUBJECT: model for model in handlers}
        self._handlers = handlers
        self._use_cases = use_cases
        self._failures: Counter[str] = Counter()
        self._outages = 0

    async def run(self) -> None:
        """Consume until cancelled; what was begun then is finished, if that takes no longer than a second."""
        async with aclosing(self._bus.batches(self._service, list(self._models))) as batches:
            async for messages in batches:
                work = asyncio.create_task(self._handle_all(messages))
                try:
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    await asyncio.wait([work], timeout=_FINISH_SECONDS)
                    raise
                finally:
                    work.cancel()

    async def _handle_all(self, messages: Sequence[Msg]) -> None:
        by_subject: dict[str, list[Msg]] = {}
        for message in messages:
            if message.metadata.num_delivered > 1:
                metrics.EVENTS_REDELIVERED.labels(self._service).inc()
            by_subject.setdefault(message.subject, []).append(message)
        for subject, group in by_subject.items():
            await self._handle(self._models[subject], group)

    async def _handle(self, model: type[Event], messages: Sequence[Msg]) -> None:
        events: list[Event] = []
        valid: list[Msg] = []
        for message in messages:
            try:
                events.append(parse_event(model, message.data))
                valid.append(message)
            except InvalidEvent as error:
                await self._bury(message, f"invalid: {error}")
        if not events:
            return
        try:
            unchanged = await self._handlers[model](self._use_cases, events)
        except Exception as error:
            await self._retry(model, valid, error)
            return
        self._outages = 0
        for message in valid:
            self._failures.pop(_event_id(message), None)
            await message.ack()
        metrics.EVENTS_HANDLED.labels(self._service, model.SUBJECT).inc(len(valid))
        metrics.EVENTS_UNCHANGED.labels(self._service).inc(unchanged)

    async def _retry(self, model: type[Event], messages: Sequence[Msg], error: Exception) -> None:
        if is_outage(error) or (isinstance(error, ServiceError) and error.status >= 500):
            self._outages += 1
            pause = min(0.25 * 2**self._outages, _LONGEST_PAUSE_SECONDS)
            logger.warning("events wait for an outage to end: %s", error)
            for message in messages:
                await message.nak(delay=pause)
            await asyncio.sleep(pause)
        elif len(messages) > 1:
            for message in messages:
                await self._handle(model, [message])
        else:
            (message,) = messages
            failures = self._failures[_event_id(message)] = self._failures[_event_id(message)] + 1
            logger.error("the handler of %s failed", model.SUBJECT, exc_info=error)
            if failures >= FAILURES_TO_DEAD_LETTER:
                await self._bury(message, f"handler failed {failures} times: {type(error).__name__}: {error}")
            else:
                await message.nak(delay=min(0.05 * 2**failures, _LONGEST_PAUSE_SECONDS))

    async def _bury(self, message: Msg, reason: str) -> None:
        letter = {
            "subject": message.subject,
            "payload": message.data,
            "reason": reason,
            "at": datetime.now(UTC),
        }
        try:
            await self._dead_letters.update_one({"_id": _event_id(message)}, {"$set": letter}, upsert=True)
        except Exception as error:
            if not is_outage(error):
                raise
            await message.nak(delay=_LONGEST_PAUSE_SECONDS)
            return
        self._failures.pop(_event_id(message), None)
        metrics.DEAD_LETTERS.labels(self._service).inc()
        logger.error("an event went to the dead letters: %s", reason)
        await message.term()


async def _give_back(answers: Subscription) -> None:
    """Let others have at once what arrived and was not begun, not only after ACK_WAIT_SECONDS."""
    while answers.pending_msgs:
        message = await answers.next_msg(timeout=1)
        if not (message.headers and "Status" in message.headers):
            await message.nak()


def _event_id(message: Msg) -> str:
    given = message.headers.get("Nats-Msg-Id") if message.headers else None
    return given or f"{STREAM}:{message.metadata.sequence.stream}"
