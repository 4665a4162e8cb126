"""What is on its way: events that NATS has, or may have, and that a consumer has not handled yet."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from common.settings import Settings
from common.stream import STREAM

_TRIES = 10
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Transit:
    """What NATS said at `asked_at`: since when it has its stream, and which consumers have not handled all of it."""

    asked_at: datetime
    stream_created_at: datetime
    behind: frozenset[str]

    def may_hold(self, consumer: str, sent_at: datetime) -> bool:
        """Whether an event that was sent then may still come to the consumer."""
        if sent_at < self.stream_created_at:
            return False  # lost with the stream before this one
        return consumer in self.behind or sent_at > self.asked_at


async def ask(settings: Settings, consumers: Sequence[str]) -> Transit | None:
    """Ask NATS, and give consumers that are nearly done a moment; None when it does not answer.

    A consumer has handled what there was when all up to the stream's last message is acknowledged, or when it waits for
    nothing. So it is found out while new events come, too.
    """
    asked_at = datetime.now(UTC)
    try:
        client = await nats.connect(
            settings.nats_url.get_secret_value().split(","),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # of each server; otherwise 60, with pauses of 2 s
            reconnect_time_wait=0,
            connect_timeout=2,
            error_cb=_ignore,
        )
    except (OSError, NatsError, TimeoutError, ValueError):
        return None
    try:
        jetstream = client.jetstream(timeout=5)
        stream = await jetstream.stream_info(STREAM)
        behind = set(consumers)
        for _ in range(_TRIES):
            behind = {one for one in behind if await _is_behind(jetstream, one, stream.state.last_seq)}
            if not behind:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        return Transit(asked_at, stream.created or asked_at, frozenset(behind))
    except NotFoundError:
        return Transit(asked_at, asked_at, frozenset())  # without a stream, nothing is on its way
    except (NatsError, TimeoutError):
        return None
    finally:
        await client.close()


async def _is_behind(jetstream: JetStreamContext, consumer: str, last: int) -> bool:
    try:
        info = await jetstream.consumer_info(STREAM, consumer)
    except NotFoundError:
        return last > 0  # once it is there, it begins with all that there is
    handled = info.ack_floor.stream_seq if info.ack_floor else 0
    return handled < last and bool(info.num_pending or info.num_ack_pending)


async def _ignore(_: Exception) -> None:
    pass  # it is raised as well
