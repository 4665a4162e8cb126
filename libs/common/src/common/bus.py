"""NATS JetStream: publishing to the stream, and taking messages from it."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import BadSubjectError, MaxPayloadError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import (
    APIError,
    NoStreamResponseError,
    NotFoundError,
    ServerError,
    ServiceUnavailableError,
)

from common.errors import ServiceError, Unavailable
from common.logs import LogThrottle
from common.messaging.limits import BusLimits
from common.settings import Settings
from common.stream import STREAM, ensure_stream, why_refused
from common.tracing import TRACEPARENT_HEADER

logger = logging.getLogger(__name__)

_HEADER_BYTES = 256
"""More than the headers of an event take, which count as part of its size."""
_NO_ROOM = 10077  # NATS's code for a stream that has reached its max_bytes


def consumer_config(durable: str, subjects: Iterable[str], limits: BusLimits) -> ConsumerConfig:
    """The consumer of a service that handles these subjects."""
    return ConsumerConfig(
        durable_name=durable,
        filter_subjects=sorted(subjects),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=limits.ack_wait_seconds,
        # Without a limit: a replica asks for two batches at most, and what no handler takes is not acknowledged for as
        # long as it is there. At a limit, NATS would deliver nothing else.
        max_ack_pending=-1,
        deliver_policy=DeliverPolicy.ALL,
        max_deliver=-1,
    )


class Bus:
    """One connection to NATS, kept up for as long as `run` runs."""

    def __init__(self, settings: Settings, service: str) -> None:
        self.limits = settings.bus
        self._settings = settings
        self._service = service
        self._client: Client | None = None
        self._stream_is_there = asyncio.Event()
        self._log_throttle = LogThrottle()
        self._error_throttle = LogThrottle()
        self._consume_throttle = LogThrottle()

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
        return self._connection.jetstream(timeout=self.limits.answer_seconds)

    async def run(self) -> None:
        """Connect, and create the stream whenever it is not there; until cancelled."""
        await self.close()  # what is left of a run that failed
        # Known before it is connected, so that `close` ends also what was only begun.
        self._client = Client()
        await self._client.connect(
            self._settings.nats_url.get_secret_value().split(","),
            name=self._service,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type] # it sleeps for so long
            connect_timeout=self.limits.connect_seconds,  # type: ignore[arg-type] # it waits for so long
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=self._note_error,
        )
        pause = self.limits.first_pause_seconds
        while True:
            if (
                self._client.is_closed
            ):  # as it does itself, for good, after nearly every error that NATS tells it
                reason = self._client.last_error or "no reason given"
                text = f"NATS closed the connection ({reason}): events wait until this service starts again"
                if self._log_throttle.allows(text):
                    logger.error(text)
                await asyncio.sleep(1)
            elif self._stream_is_there.is_set() or await self._ensure_stream():
                pause = self.limits.first_pause_seconds
                await asyncio.sleep(1)
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, self.limits.longest_pause_seconds)

    async def close(self) -> None:
        """Send what is buffered (acknowledgements) and disconnect."""
        if self._client is not None:
            try:
                await self._client.flush(self.limits.finish_seconds)  # type: ignore[arg-type] # it waits for so long
            except NatsError:
                logger.info("NATS is away; what was not acknowledged comes again")
            await self._client.close()

    async def publish(self, event_id: str, subject: str, payload: bytes) -> None:
        """Return once JetStream has stored the event, or has it already. Raises otherwise."""
        (error,) = await self.publish_all([(event_id, subject, payload, None)])
        if error is not None:
            raise error

    async def publish_all(
        self, events: Sequence[tuple[str, str, bytes, str | None]]
    ) -> list[NatsError | None]:
        """Publish events (id, subject, payload, `traceparent`) together; None where `publish` would return.

        Raises Unavailable when there is no connection. Measured, an event takes a third of the CPU time that the
        client's own `publish` takes for each; its `publish_async` never tells of a refusal.
        """
        client = self._connection
        inbox = client.new_inbox()
        answers = _Answers(len(events))
        try:
            subscription = await client.subscribe(f"{inbox}.*", cb=answers.add)
            try:
                for number, (event_id, subject, payload, traceparent) in enumerate(events):
                    headers = {"Nats-Msg-Id": event_id}
                    if traceparent:
                        headers[TRACEPARENT_HEADER] = traceparent
                    # NATS would close the connection over one message that is too large.
                    if len(payload) + _HEADER_BYTES > client.max_payload:
                        answers.refuse(number, MaxPayloadError())
                        continue
                    try:
                        await client.publish(subject, payload, reply=f"{inbox}.{number}", headers=headers)
                    except BadSubjectError as error:
                        answers.refuse(number, error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.limits.publish_seconds):
                        await answers.are_complete.wait()
            finally:
                await subscription.unsubscribe()
        except NatsError as error:
            raise Unavailable("nats") from error
        if any(map(_means_no_stream, answers.errors)):
            self._stream_is_there.clear()
        return answers.errors

    @staticmethod
    def is_own_refusal(error: NatsError) -> bool:
        """Whether NATS refuses this one event, however often it is published, and takes others meanwhile."""
        if isinstance(error, ServiceUnavailableError | ServerError):
            return False
        return isinstance(error, MaxPayloadError | BadSubjectError | APIError)

    async def batches(self, durable: str, subjects: Sequence[str]) -> AsyncGenerator[list[Msg], None]:
        """Messages of a durable pull consumer, as many at a time as are there, until cancelled.

        The client's own `fetch` waits for a batch to fill, and its `next_msg` starts two tasks a message, so
        this speaks the pull protocol itself (NATS ADR-13): one request at a time, whose answers come to a
        private subject.
        """
        while True:
            await self._stream_is_there.wait()
            arrived = _Arrived()
            try:
                await self._ensure_consumer(durable, subjects)
                client = self._connection
                inbox = client.new_inbox()
                answers = await client.subscribe(inbox, cb=arrived.add)
            except (NatsError, ServiceError, TimeoutError) as error:
                if self._consume_throttle.allows(type(error).__name__):
                    logger.warning("cannot consume yet: %s", type(error).__name__)
                await asyncio.sleep(0.5)
                continue
            try:
                async for messages in self._pull(client, durable, inbox, arrived):
                    yield messages
            finally:
                if not client.is_closed:
                    await _give_back(client, answers, arrived, self.limits.finish_seconds)

    async def _pull(
        self, client: Client, durable: str, inbox: str, arrived: "_Arrived"
    ) -> AsyncIterator[list[Msg]]:
        limits = self.limits
        request = json.dumps({"batch": limits.batch, "expires": int(limits.pull_seconds * 1e9)}).encode()
        remaining, deadline = 0, 0.0
        while self._stream_is_there.is_set():
            messages, status = await arrived.take(deadline)
            remaining -= len(messages)
            can_ask = True
            # A request without any answer was lost, with a connection for instance.
            if remaining <= 0 or status or not messages:
                # Before these are handled, so that the next ones come meanwhile.
                try:
                    await client.publish(
                        f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{durable}", request, reply=inbox
                    )
                except NatsError as error:
                    logger.warning("cannot ask for more events: %s", type(error).__name__)
                    can_ask = False
                remaining = limits.batch
                deadline = asyncio.get_running_loop().time() + limits.pull_seconds + 1
            if messages:
                yield messages
            if status in ("404", "503") or not can_ask:
                return  # no such consumer, stream or connection (any more): start over

    async def _ensure_stream(self) -> bool:
        """Whether the stream is there now; if not, the log says why, and what to change."""
        try:
            await ensure_stream(self._jetstream, self._settings)
        except (NatsError, ServiceError, TimeoutError) as error:
            reason = why_refused(error, self._settings)
            if self._log_throttle.allows(reason):
                logger.warning("events wait in the outbox: %s", reason)
            return False
        self._stream_is_there.set()
        return True

    async def _ensure_consumer(self, durable: str, subjects: Sequence[str]) -> None:
        """Create the consumer, or add what its filter lacks.

        Replicas of two versions share it during a rollout: one that removed a subject would lose its events for the
        other. `callboard migrate` removes what no handler takes any more.
        """
        jetstream = self._jetstream
        present: Sequence[str] = ()
        try:
            with suppress(NotFoundError):
                present = (await jetstream.consumer_info(STREAM, durable)).config.filter_subjects or ()
            await jetstream.add_consumer(STREAM, consumer_config(durable, {*present, *subjects}, self.limits))
        except NotFoundError:
            self._stream_is_there.clear()
            raise

    async def _note_error(self, error: Exception) -> None:
        text = str(error) if "ermissions" in str(error) else type(error).__name__  # it names the subject
        if self._error_throttle.allows(text):
            logger.warning("NATS: %s", text)


class _Answers:
    """What JetStream says of each of several events; until it does, that it did not."""

    def __init__(self, number: int) -> None:
        self.errors: list[NatsError | None] = [NatsTimeoutError() for _ in range(number)]
        self.are_complete = asyncio.Event()
        self._missing = number

    async def add(self, message: Msg) -> None:
        """An answer; the last part of its subject is the number of the event."""
        self._note(int(message.subject.rpartition(".")[2]), _error_in(message))

    def refuse(self, number: int, error: NatsError) -> None:
        """Nothing was sent: this event cannot be."""
        self._note(number, error)

    def _note(self, number: int, error: NatsError | None) -> None:
        self.errors[number] = error
        self._missing -= 1
        if self._missing == 0:
            self.are_complete.set()


def _means_no_stream(error: NatsError | None) -> bool:
    if isinstance(error, ServiceUnavailableError):
        return error.err_code != _NO_ROOM
    return isinstance(error, NoStreamResponseError)


def _error_in(answer: Msg) -> NatsError | None:
    """None only for an acknowledgement: whatever else is said, the event must be published again."""
    if answer.headers and answer.headers.get("Status") == "503":
        return NoStreamResponseError()
    told = json.loads(answer.data)
    try:
        if "error" in told:
            APIError.from_error(told["error"])  # raises what its signature says it returns
        elif told.get("stream") == STREAM:
            return None
    except NatsError as error:
        return error
    return NatsError(f"no acknowledgement: {told}")


class _Arrived:
    """What came to the private subject of one consumer, and was not taken yet."""

    def __init__(self) -> None:
        self._messages: list[Msg] = []
        self._status = ""
        self._is_there = asyncio.Event()

    async def add(self, message: Msg) -> None:
        """A message, or how the request ended."""
        if message.headers and "Status" in message.headers:
            self._status = message.headers["Status"]
        else:
            self._messages.append(message)
        self._is_there.set()

    async def take(self, deadline: float) -> tuple[list[Msg], str]:
        """All that is there as soon as something is; nothing after `deadline`, a time of the event loop."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._is_there.wait()
        taken = self._messages, self._status
        self._messages, self._status = [], ""
        self._is_there.clear()
        return taken


async def _give_back(client: Client, answers: Subscription, arrived: _Arrived, seconds: float) -> None:
    """Let others have at once what arrived and was not begun, not only when nobody acknowledged it in time."""
    with suppress(NatsError, TimeoutError):
        if client.is_connected:
            async with asyncio.timeout(seconds):
                await answers.drain()  # type: ignore[no-untyped-call] # of nats-py; takes what was on its way
        else:
            await answers.unsubscribe()
        messages, _ = await arrived.take(0)
        for message in messages:
            await message.nak()
