"""The stream and the consumer of one service in NATS: looked at once a second, and put right."""

import asyncio
from collections.abc import Collection, Iterable

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from common.messaging.limits import BusLimits
from common.messaging.troubles import Troubles
from common.settings import Settings
from common.stream import STREAM, ensure_stream, why_no_consumer, why_refused


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


def filter_of(consumer: ConsumerInfo) -> set[str]:
    """The subjects that a consumer asks for."""
    return {*(consumer.config.filter_subjects or ()), *filter(None, [consumer.config.filter_subject])}


def paused(consumer: ConsumerInfo) -> tuple[str, str]:
    """That it is paused, and how that ends."""
    return (
        f"The consumer {consumer.name} is paused in NATS until {consumer.config.pause_until}: its events wait.",
        f"They come by themselves then, or at once after `nats consumer resume {STREAM} {consumer.name}`.",
    )


def unhandled(consumer: ConsumerInfo, subjects: Iterable[str]) -> tuple[str, str]:
    """That these have no handler here, and what to do."""
    return (
        f"The consumer {consumer.name} asks for {', '.join(sorted(subjects))}, which this version does not handle: these "
        "events are put off.",
        "Run the newer version that does, or `callboard migrate` of this one: it gives them up, for good.",
    )


class Watch:
    """Whether the stream and the consumer are there; `look` makes them, and says what is wrong."""

    def __init__(self, settings: Settings, troubles: Troubles) -> None:
        self.stream_is_there = asyncio.Event()
        self.consumer_is_there = asyncio.Event()
        self.look_now = asyncio.Event()
        """Set by whoever finds that one of them is gone."""
        self._settings = settings
        self._troubles = troubles
        self._durable = ""
        self._subjects: frozenset[str] = frozenset()
        self._has_set_stream = False
        self._has_set_consumer = False

    def consume(self, durable: str, subjects: Collection[str]) -> None:
        """Keep up a consumer for these subjects as well."""
        self._durable, self._subjects = durable, frozenset(subjects)
        self.look_now.set()

    def stream_is_gone(self) -> None:
        """NATS refused events for want of a stream."""
        self.stream_is_there.clear()
        self.look_now.set()

    def consumer_is_gone(self) -> None:
        """NATS refused to deliver for want of a consumer, a stream or a connection."""
        self.consumer_is_there.clear()
        self.look_now.set()

    async def look(self, jetstream: JetStreamContext) -> bool:
        """Look at both, and make or change what is not as it should be; False where NATS refuses that."""
        try:
            difference = await self._look_at_stream(jetstream)
        except (NatsError, TimeoutError) as error:
            if isinstance(error, APIError):
                self.stream_is_there.clear()
            self._troubles.note("stream", f"Events wait. {why_refused(error, self._settings)}")
            return False
        self.stream_is_there.set()
        self._troubles.note("stream", difference)
        if not self._durable:
            return self._has_set_stream
        try:
            await self._look_at_consumer(jetstream)
        except (NatsError, TimeoutError) as error:
            self._troubles.note("consumer", why_no_consumer(error, self._durable))
            return False
        self.consumer_is_there.set()
        self._troubles.note("consumer", None)
        return self._has_set_stream

    async def _look_at_stream(self, jetstream: JetStreamContext) -> str | None:
        """What is not as the settings want it, in a sentence.

        It is set as they want it once. Two versions that differ would set it in turns while one replaces the other.
        """
        is_new, difference = await ensure_stream(
            jetstream, self._settings, may_change=not self._has_set_stream
        )
        if is_new and self._has_set_stream:
            self._troubles.note(
                "stream",
                f"The stream {STREAM} was gone from NATS, and is made anew, empty: `callboard verify --repair` publishes "
                "again what nobody had handled.",
            )
        self._has_set_stream |= difference is None
        return difference

    async def _look_at_consumer(self, jetstream: JetStreamContext) -> None:
        """Create the consumer, or add what its filter lacks.

        Replicas of two versions share it during a rollout: one that removed a subject would lose its events for the
        other. `callboard migrate` removes what no handler takes any more.
        """
        try:
            found = await jetstream.consumer_info(STREAM, self._durable)
        except NotFoundError:
            found, present = None, set[str]()
        else:
            present = filter_of(found)
        lacking = self._subjects - present
        if lacking and self._has_set_consumer:
            what = (
                f"did not ask for {', '.join(sorted(lacking))} any more, and does again: `callboard verify --repair` "
                "publishes again what it passed over meanwhile."
                if found
                else "was gone from NATS, and is made anew: all events of the stream come again, which changes nothing."
            )
            self._troubles.note("consumer", f"The consumer {self._durable} {what}")
        if lacking or found is None or not self._has_set_consumer:
            config = consumer_config(self._durable, present | self._subjects, self._settings.bus)
            found = await jetstream.add_consumer(STREAM, config)
        self._has_set_consumer = True
        self._troubles.note("paused", " ".join(paused(found)) if found.paused else None)
        more = present - self._subjects
        self._troubles.note("unhandled", " ".join(unhandled(found, more)) if more else None)
