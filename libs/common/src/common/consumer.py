"""A service's consumer: events come to their handlers, are acknowledged, and go to the dead letters if they must.

An event may come again, so whatever a handler does must be safe to do again.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from common import metrics
from common.bus import Bus
from common.dead_letters import DEAD_LETTERS, keep
from common.errors import InvalidEvent, ServiceError
from common.events import Event, parse_event
from common.mongo import Database, is_outage
from common.stream import STREAM
from common.tracing import TRACEPARENT_HEADER, Tracer, trace_id

logger = logging.getLogger(__name__)

FAILURES_TO_DEAD_LETTER = 10
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_LEFT_TO_OTHERS_SECONDS = 1.0
_LONGEST_LEFT_TO_OTHERS_SECONDS = 3600.0
_DELIVERIES_BEFORE_IT_GROWS = 5

Handler = Callable[[Any, Sequence[Any]], Awaitable[int]]
"""Handles a batch of one event class with the service's use cases; answers how many changed nothing.

Raises InvalidEvent where one of them can never be handled.
"""


class Consumer:
    """A service's one consumer: hands events to their handlers and acknowledges what was done."""

    def __init__(
        self,
        bus: Bus,
        service: str,
        database: Database,
        handlers: Mapping[type[Event], Handler],
        use_cases: Any,
        tracer: Tracer | None = None,
    ) -> None:
        self._bus = bus
        self._service = service
        self._dead_letters = database[DEAD_LETTERS.name]
        self._models = {model.SUBJECT: model for model in handlers}
        self._handlers = handlers
        self._use_cases = use_cases
        self._tracer = tracer
        self._failures: Counter[str] = Counter()
        # There from the start, at 0: an alert sees a counter rise, not appear.
        metrics.DEAD_LETTERS.labels(service)
        for subject in self._models:
            metrics.EVENTS_HANDLED.labels(service, subject)
        self._pause = _FIRST_PAUSE_SECONDS

    async def run(self) -> None:
        """Consume until cancelled; what was begun then is finished, if that takes no longer than a second."""
        async with aclosing(self._bus.batches(self._service, list(self._models))) as batches:
            async for messages in batches:
                work = asyncio.create_task(self._handle_all(messages))
                try:
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    await asyncio.wait([work], timeout=self._bus.limits.finish_seconds)
                    raise
                except NatsError as error:
                    logger.warning("NATS was not told what was handled, which comes again: %s", error)
                except Exception:
                    await _give_back(messages)
                    raise
                finally:
                    work.cancel()

    async def _handle_all(self, messages: Sequence[Msg]) -> None:
        by_subject: dict[str, list[Msg]] = {}
        for message in messages:
            if _deliveries(message) > 1:
                metrics.EVENTS_REDELIVERED.labels(self._service).inc()
            by_subject.setdefault(message.subject, []).append(message)
        for subject, group in by_subject.items():
            if model := self._models.get(subject):
                await self._handle(model, group)
            else:  # while a newer version is rolled out, whose replicas handle this
                for message in group:
                    await message.nak(delay=_put_off_seconds(_deliveries(message)))

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
            with self._spans(model, valid):
                unchanged = await self._handlers[model](self._use_cases, events)
        except Exception as error:
            await self._retry(model, valid, error)
            return
        self._pause = _FIRST_PAUSE_SECONDS
        for message in valid:
            if self._failures:
                self._failures.pop(_event_id(message), None)
            await message.ack()
        metrics.EVENTS_HANDLED.labels(self._service, model.SUBJECT).inc(len(valid))
        metrics.EVENTS_UNCHANGED.labels(self._service).inc(unchanged)
        now = datetime.now(UTC)
        delay = metrics.EVENT_DELAY.labels(self._service, model.SUBJECT)
        for event in events:
            delay.observe(max(0.0, (now - event.occurred_at).total_seconds()))

    def _spans(self, model: type[Event], messages: Sequence[Msg]) -> AbstractContextManager[None]:
        if self._tracer is None:
            return nullcontext()
        events = [(_event_id(message), _traceparent(message)) for message in messages]
        return self._tracer.handling(model.SUBJECT, events)

    async def _retry(self, model: type[Event], messages: Sequence[Msg], error: Exception) -> None:
        if is_outage(error) or (isinstance(error, ServiceError) and error.status >= 500):
            pause = min(self._pause, _LONGEST_PAUSE_SECONDS)
            self._pause = 2 * pause
            logger.warning("events wait for an outage to end: %s", error)
            for message in messages:
                await message.nak(delay=pause)
            await asyncio.sleep(pause)
        elif len(messages) > 1:
            for message in messages:
                await self._handle(model, [message])
        elif isinstance(error, InvalidEvent):
            await self._bury(messages[0], f"invalid: {error}")
        else:
            (message,) = messages
            failures = self._failures[_event_id(message)] = self._failures[_event_id(message)] + 1
            extra = _trace_of(message)
            logger.error("the handler of %s failed", model.SUBJECT, exc_info=error, extra=extra)
            if failures >= FAILURES_TO_DEAD_LETTER:
                await self._bury(message, f"handler failed {failures} times: {type(error).__name__}: {error}")
            else:
                await message.nak(delay=min(0.05 * 2**failures, _LONGEST_PAUSE_SECONDS))

    async def _bury(self, message: Msg, reason: str) -> None:
        try:
            await keep(self._dead_letters, _event_id(message), message.subject, message.data, reason)
        except Exception as error:
            if not is_outage(error):
                raise
            await message.nak(delay=_LONGEST_PAUSE_SECONDS)
            return
        self._failures.pop(_event_id(message), None)
        metrics.DEAD_LETTERS.labels(self._service).inc()
        logger.error("an event went to the dead letters: %s", reason, extra=_trace_of(message))
        await message.term()


async def _give_back(messages: Sequence[Msg]) -> None:
    """Let what was not come to be delivered again at once, not only when it was not acknowledged in time."""
    with suppress(NatsError):
        for message in messages:
            if not message.is_acked:
                await message.nak()


def _put_off_seconds(deliveries: int) -> float:
    """How long an event that no handler takes is put off.

    During a rollout, a replica of the newer version gets it soon. After going back to an older version nobody does,
    perhaps for weeks, and then it must not come between those that are handled.
    """
    doublings = min(max(0, deliveries - _DELIVERIES_BEFORE_IT_GROWS), 32)
    return min(_LEFT_TO_OTHERS_SECONDS * 2.0**doublings, _LONGEST_LEFT_TO_OTHERS_SECONDS)


def _deliveries(message: Msg) -> int:
    # The metadata tell it too, but take a tenth of the time that a message takes. NATS ADR-15 has two forms.
    tokens = message.reply.split(".")
    return int(tokens[4 if len(tokens) == 9 else 6])


def _event_id(message: Msg) -> str:
    given = message.headers.get("Nats-Msg-Id") if message.headers else None
    return given or f"{STREAM}:{message.metadata.sequence.stream}"


def _traceparent(message: Msg) -> str | None:
    return message.headers.get(TRACEPARENT_HEADER) if message.headers else None


def _trace_of(message: Msg) -> dict[str, str]:
    traceparent = _traceparent(message)
    return {"trace_id": trace_id(traceparent)} if traceparent else {}
