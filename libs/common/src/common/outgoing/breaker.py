"""Keeping requests away from a server that does not answer: they fail at once, and it can recover."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

from common import metrics
from common.outgoing.limits import OutgoingLimits

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
SECONDS_BETWEEN_TRIES = 0.5

_READ_SECONDS = 0.1
"""What arrived while this process was paused itself is read in this time."""


class Breaker:
    """For servers that nobody may probe: opens after several failures in a row; then lets one request through now
    and then, until one is answered.
    """

    def __init__(self) -> None:
        self.failures = 0
        """How many requests in a row were not answered."""
        self._next_try = 0.0

    def lets_pass(self) -> bool:
        """Whether the next request may be sent."""
        if self.failures < FAILURES_IN_A_ROW:
            return True
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + SECONDS_BETWEEN_TRIES
        return True

    def note_answer(self) -> None:
        """It answers."""
        self.failures = 0

    def note_failure(self) -> None:
        """It did not answer."""
        self.failures += 1
        if self.failures == FAILURES_IN_A_ROW:
            self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES


class ProbingBreaker:
    """For the replicas of our own services: no request passes while it is open, and it probes until one may.

    It opens after several failures in a row, and when a replica that said nothing for a while does not answer a probe
    either. `probe` answers whether the replica answered; it ends in a time of its own. `on_open` is called each time.
    """

    def __init__(
        self,
        service: str,
        address: str,
        limits: OutgoingLimits,
        probe: Callable[[], Awaitable[bool]],
        on_open: Callable[[], None],
    ) -> None:
        self.is_open = False
        self._service = service
        self._address = address
        self._limits = limits
        self._probe = probe
        self._on_open = on_open
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._is_retired = False

    def note_answer(self) -> None:
        """It answers."""
        self._failures = 0
        if self.is_open:
            self._stop_probing()
            self._close()

    def note_failure(self) -> None:
        """It cannot be reached, or broke off."""
        self._failures += 1
        if self._failures >= self._limits.max_failures:
            self._open()
            self.probe()

    def probe(self) -> None:
        """Find out whether it answers, unless this is being found out."""
        if self._probing is None or self._probing.done():
            # Its log lines are of no request, though one may have begun it.
            self._probing = asyncio.create_task(self._probe_until_answered(), context=Context())

    def retire(self) -> None:
        """It is listed no more: probe it no longer."""
        if not self._is_retired and self.is_open:
            metrics.REPLICAS_OPEN.labels(self._service).dec()
            self._stop_probing()
        self._is_retired = True

    async def stop(self) -> None:
        """Nobody calls it any more."""
        probing = self._probing
        self.retire()
        if probing is not None:
            probing.cancel()
            await asyncio.wait([probing])

    async def _probe_until_answered(self) -> None:
        while not await self._is_answered():
            self._open()
            if self._is_retired:
                return
            await asyncio.sleep(self._limits.probe_every)
        self._failures = 0
        if self.is_open:
            self._close()

    async def _is_answered(self) -> bool:
        """Whether a probe is answered, however late; opens when it is late."""
        loop = asyncio.get_running_loop()

        def open_soon() -> None:
            self._opening = loop.call_later(_READ_SECONDS, self._open)

        self._opening = loop.call_later(self._limits.probe_seconds, open_soon)
        try:
            return await self._probe()
        finally:
            self._opening.cancel()

    def _open(self) -> None:
        if self.is_open:
            return
        self.is_open = True
        if not self._is_retired:
            metrics.REPLICAS_OPEN.labels(self._service).inc()
            logger.warning(
                "%s at %s does not answer: no request is sent there until it does",
                self._service,
                self._address,
            )
        self._on_open()

    def _close(self) -> None:
        self.is_open = False
        if not self._is_retired:
            metrics.REPLICAS_OPEN.labels(self._service).dec()
            logger.warning("%s at %s answers again", self._service, self._address)

    def _stop_probing(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None  # what opens it again at this moment starts another
