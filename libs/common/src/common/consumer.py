"""A service's consumer: hands events to their handlers, and acknowledges, puts off or buries each by itself."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from common import metrics
from common.bus import Bus
from common.dead_letters import DEAD_LETTERS, keep
from common.errors import InvalidEvent, ServiceError
from common.events import Event, parse_event
from common.logs import LogThrottle
from common.messaging.handling import Handled, Handler, Outcome, handle_each
from common.messaging.limits import ConsumerLimits
from common.mongo import Database, is_outage
from common.stream import STREAM
from common.tracing import TRACEPARENT_HEADER, Tracer, trace_id

logger = logging.getLogger(__name__)


class Consumer:
    """A service's one consumer: hands events to their handlers and acknowledges what was done."""

    def __init__(
        self,
        bus: Bus,
        service: str,
        database: Database,
        handlers: Mapping[type[Event], Handler],
        use_cases: Any,
        limits: ConsumerLimits,
        tracer: Tracer | None = None,
    ) -> None:
        self._bus = bus
        self._service = service
        self._dead_letters = database[DEAD_LETTERS.name]
        self._models = {model.SUBJECT: model for model in handlers}
        self._handlers = handlers
        self._use_cases = use_cases
        self._limits = limits
        self._tracer = tracer
        self._log_throttle = LogThrottle()
        self._failures: Counter[str] = Counter()
        # There from the start, at 0: an alert sees a counter rise, not appear.
        metrics.DEAD_LETTERS.labels(service)
        for subject in self._models:
            metrics.EVENTS_HANDLED.labels(service, subject)
        self._pause = limits.first_pause_seconds

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
        # What comes again apart from what comes first: one that fails each time then slows no first delivery.
        by_subject: dict[tuple[bool, str], list[Msg]] = {}
        for message in messages:
            is_again = _deliveries(message) > 1
            if is_again:
                metrics.EVENTS_REDELIVERED.labels(self._service).inc()
            by_subject.setdefault((is_again, message.subject), []).append(message)
        for (_, subject), group in sorted(by_subject.items(), key=lambda item: item[0][0]):
            if model := self._models.get(subject):
                await self._handle(model, group)
            else:  # while a newer version is rolled out, whose replicas handle this
                for message in group:
                    await message.nak(delay=_left_to_others_seconds(_deliveries(message), self._limits))

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
        with self._spans(model, valid) as errors:
            handle = partial(self._handlers[model], self._use_cases)
            outcomes = await handle_each(events, handle, self._limits)
            for message, outcome in zip(valid, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    errors[_event_id(message)] = outcome
        await self._answer(model, valid, events, outcomes)

    def _spans(
        self, model: type[Event], messages: Sequence[Msg]
    ) -> AbstractContextManager[dict[str, Exception]]:
        if self._tracer is None:
            return nullcontext({})
        events = [(_event_id(message), _traceparent(message)) for message in messages]
        return self._tracer.handling(model.SUBJECT, events)

    async def _answer(
        self,
        model: type[Event],
        messages: Sequence[Msg],
        events: Sequence[Event],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Acknowledge what was handled, and put off or bury each other event by itself; after an outage, pause."""
        handled: list[Event] = []
        unchanged = 0
        outage: Exception | None = None
        pause = min(self._pause, self._limits.longest_pause_seconds)
        for message, event, outcome in zip(messages, events, outcomes, strict=True):
            if isinstance(outcome, Handled):
                if self._failures:
                    self._failures.pop(_event_id(message), None)
                await message.ack()
                handled.append(event)
                unchanged += outcome is Handled.UNCHANGED
            elif is_outage(outcome):
                outage = outcome
                await message.nak(delay=pause)
            else:
                await self._put_off(model, message, outcome)
        metrics.EVENTS_HANDLED.labels(self._service, model.SUBJECT).inc(len(handled))
        metrics.EVENTS_UNCHANGED.labels(self._service).inc(unchanged)
        now = datetime.now(UTC)
        delay = metrics.EVENT_DELAY.labels(self._service, model.SUBJECT)
        for event in handled:
            delay.observe(max(0.0, (now - event.occurred_at).total_seconds()))
        if outage:
            logger.warning("events wait for an outage to end: %s", outage)
            self._pause = 2 * pause
            await asyncio.sleep(pause)
        elif handled:
            self._pause = self._limits.first_pause_seconds

    async def _put_off(self, model: type[Event], message: Msg, error: Exception) -> None:
        """Have an event delivered again that alone failed, later each time; bury one that can never be handled."""
        limits = self._limits
        if isinstance(error, ServiceError) and error.status >= 500:
            if self._log_throttle.allows(str(error)):
                logger.warning("events of %s are put off: %s", model.SUBJECT, error)
            doublings = min(_deliveries(message) - 1, 32)
            await message.nak(
                delay=min(limits.first_pause_seconds * 2.0**doublings, limits.longest_put_off_seconds)
            )
        elif isinstance(error, InvalidEvent):
            await self._bury(message, f"invalid: {error}")
        else:
            failures = self._failures[_event_id(message)] = self._failures[_event_id(message)] + 1
            extra = _trace_of(message)
            logger.error("the handler of %s failed", model.SUBJECT, exc_info=error, extra=extra)
            if failures >= limits.failures_to_dead_letter:
                await self._bury(message, f"handler failed {failures} times: {type(error).__name__}: {error}")
            else:
                await message.nak(delay=min(0.05 * 2**failures, limits.longest_pause_seconds))

    async def _bury(self, message: Msg, reason: str) -> None:
        try:
            await keep(self._dead_letters, _event_id(message), message.subject, message.data, reason)
        except Exception as error:
            if not is_outage(error):
                raise
            await message.nak(delay=self._limits.longest_pause_seconds)
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


def _left_to_others_seconds(deliveries: int, limits: ConsumerLimits) -> float:
    """How long an event that no handler takes is put off.

    During a rollout, a replica of the newer version gets it soon. After going back to an older version nobody does,
    perhaps for weeks, and then it must not come between those that are handled.
    """
    doublings = min(max(0, deliveries - limits.deliveries_before_it_grows), 32)
    return min(limits.left_to_others_seconds * 2.0**doublings, limits.longest_left_to_others_seconds)


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
