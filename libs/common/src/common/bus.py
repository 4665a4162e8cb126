"""NATS JetStream: publishing to the stream, and taking messages from it."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import BadSubjectError, MaxPayloadError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import (
    APIError,
    NoStreamResponseError,
    ServerError,
    ServiceUnavailableError,
)

from common.errors import ServiceError, Unavailable
from common.logs import LogThrottle
from common.messaging.troubles import Troubles
from common.messaging.watch import Watch
from common.settings import Settings
from common.stream import STREAM
from common.tracing import TRACEPARENT_HEADER

logger = logging.getLogger(__name__)

_HEADER_BYTES = 256
"""More than the headers of an event take, which count as part of its size."""
_NO_ROOM = 10077  # NATS's code for a stream that has reached its max_bytes


class Bus:
    """One connection to NATS, kept up for as long as `run` runs."""

    def __init__(self, settings: Settings, service: str) -> None:
        self.limits = settings.bus
        self._settings = settings
        self._service = service
        self._client: Client | None = None
        self._troubles = Troubles(service)
        self._watch = Watch(settings, self._troubles)
        self._arrived: _Arrived | None = None
        self._error_throttle = LogThrottle()

    @property
    def is_connected(self) -> bool:
        """Whether events can be published right now, as far as this end knows."""
        return self._client is not None and self._client.is_connected and self._watch.stream_is_there.is_set()

    @property
    def _connection(self) -> Client:
        if self._client is None or not self._client.is_connected:
            raise Unavailable("nats")
        return self._client

    async def run(self) -> None:
        """Hold a connection, look once a second whether stream and consumer are right, and put right what is not."""
        while True:
            await self.close()  # what is left of a connection that is over, or of a run that failed
            await self._supervise(await self._connect())

    async def _connect(self) -> Client:
        """Return once there is a connection; while NATS refuses one, each pause is longer than the last."""
        limits, pause = self.limits, self.limits.first_pause_seconds
        while True:
            # Known before it is connected, so that `close` ends also what was only begun.
            client = self._client = Client()
            try:
                await client.connect(
                    self._settings.nats_url.get_secret_value().split(","),
                    name=self._service,
                    # So that a refusal comes here. A server that is away is asked again in there, without end.
                    allow_reconnect=False,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=limits.first_pause_seconds,  # type: ignore[arg-type] # it sleeps for so long
                    connect_timeout=limits.connect_seconds,  # type: ignore[arg-type] # it waits for so long
                    ping_interval=5,
                    max_outstanding_pings=2,
                    error_cb=self._note_error,
                    closed_cb=self._note_end,
                )
            except (NatsError, OSError, TimeoutError) as error:
                await client.close()
                await asyncio.sleep(pause)
                if _is_refused(error):
                    pause = min(2 * pause, limits.longest_pause_seconds)
            else:
                client.options["allow_reconnect"] = True
                return client

    async def _supervise(self, client: Client) -> None:
        """Return once the connection is over for good, as it is after nearly every error that NATS tells a client."""
        limits, pause = self.limits, self.limits.first_pause_seconds
        while not (client.is_closed or (client.is_reconnecting and _is_refused(client.last_error))):
            is_right = True
            if client.is_connected:
                self._troubles.note("connection", None)
                is_right = await self._watch.look(client.jetstream(timeout=limits.answer_seconds))
            if is_right:
                pause = limits.first_pause_seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.look_seconds if is_right else pause):
                    await self._watch.look_now.wait()
            self._watch.look_now.clear()
            if not is_right:
                pause = min(2 * pause, limits.longest_pause_seconds)
        self._note_away(client.last_error, is_refusal=True)

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
            self._watch.stream_is_gone()
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
        self._watch.consume(durable, subjects)
        while True:
            await self._watch.consumer_is_there.wait()
            arrived = self._arrived = _Arrived()
            try:
                client = self._connection
                inbox = client.new_inbox()
                answers = await client.subscribe(inbox, cb=arrived.add)
            except (NatsError, ServiceError):  # while there is no connection, which the log says
                await asyncio.sleep(self.limits.first_pause_seconds)
                continue
            try:
                async for messages in self._pull(client, durable, inbox, arrived):
                    yield messages
            finally:
                self._watch.consumer_is_gone()
                if not client.is_closed:
                    await _give_back(client, answers, arrived, self.limits.finish_seconds)
            await asyncio.sleep(self.limits.first_pause_seconds)

    async def _pull(
        self, client: Client, durable: str, inbox: str, arrived: "_Arrived"
    ) -> AsyncIterator[list[Msg]]:
        limits = self.limits
        request = json.dumps({"batch": limits.batch, "expires": int(limits.pull_seconds * 1e9)}).encode()
        remaining, deadline = 0, 0.0
        while self._watch.consumer_is_there.is_set():
            messages, status = await arrived.take(deadline)
            if client.is_closed:
                return  # nothing of it could be acknowledged
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

    async def _note_error(self, error: Exception) -> None:
        if self._client is None or not self._client.is_connected:
            self._note_away(error, is_refusal=_is_refused(error))
            self._watch.look_now.set()  # a refusal ends the client: it would ask again at once, and for ever
            return
        text = str(error) if "ermissions" in str(error) else type(error).__name__  # it names the subject
        if self._error_throttle.allows(text):
            logger.warning("NATS: %s", text)

    def _note_away(self, error: Exception | None, *, is_refusal: bool) -> None:
        why, mend = "NATS does not answer", "start it, or correct CALLBOARD_NATS_URL; its own log tells more"
        if is_refusal:
            why, mend = (
                "NATS refuses this service",
                "correct CALLBOARD_NATS_URL, or mend in NATS what it names",
            )
        said = str(error).removeprefix("nats: ") if isinstance(error, NatsError) else ""
        reason = said or (type(error).__name__ if error else "no reason given")
        self._troubles.note("connection", f"{why} ({reason}): {mend}. Events wait, and it is tried again.")

    async def _note_end(self) -> None:
        if self._arrived is not None:
            self._arrived.end()


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


def _is_refused(error: Exception | None) -> bool:
    """Whether it is what NATS answered, in quotes, to a client that connects; others are the client's own."""
    return type(error) is NatsError and "'" in str(error)


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

    def end(self) -> None:
        """Nothing comes any more."""
        self._status = "503"
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
