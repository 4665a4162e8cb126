"""Calls to other companies' services: within what they allow, never for long, and none while they are down."""

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from common.breaker import Breaker
from common.errors import Unavailable
from common.metrics import PROVIDER_SECONDS

logger = logging.getLogger(__name__)

LARGEST_ANSWER = 1 << 20
"""Bytes of a provider's answer, unpacked; their pages of a hundred members have a fraction of that."""

# Discord's x-ratelimit-reset is a time of day, beside which it sends the seconds; Roblox's is the seconds.
_RESET = ("x-ratelimit-reset-after", "x-ratelimit-reset")
_FIRST_PAUSE_SECONDS = 0.1
_BURST_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 120.0

M = TypeVar("M", bound=BaseModel)


class Urgency(IntEnum):
    """Who waits for a call: what is less urgent leaves more of a budget to the others (in tenths)."""

    DECISION = 0
    """A person decided something, such as an approval."""
    PLAYER = 2
    """A player or a moderator waits for an answer."""
    BACKGROUND = 5
    """Nobody waits."""


class Budget:
    """How many calls may be made each minute: a bucket that holds those of five seconds."""

    def __init__(self, per_minute: float) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, self._per_second * _BURST_SECONDS)
        self._left = self._most
        self._counted_at = time.monotonic()
        self._paused_until = 0.0

    async def take(self, urgency: Urgency, deadline: float) -> None:
        """Return once a call may be made. Raises TimeoutError at once if none may before `deadline`."""
        floor = (self._most - 1) * urgency / 10
        while (wait := self._seconds_until(floor + 1)) > 0:
            if time.monotonic() + wait > deadline:
                raise TimeoutError
            await asyncio.sleep(wait)
        self._left -= 1

    def pause(self, seconds: float) -> None:
        """Make no call for this long: the provider said so."""
        self._paused_until = time.monotonic() + min(seconds, _LONGEST_PAUSE_SECONDS)

    def heed(self, headers: Mapping[str, str]) -> None:
        """Keep to what the answer's headers say is left."""
        remaining = _number(headers.get("x-ratelimit-remaining"))
        if remaining is None:
            return
        if remaining < 1:
            self.pause(_seconds_told(headers, _RESET) or 0)
        self._refill()
        self._left = min(self._left, remaining)

    def _seconds_until(self, wanted: float) -> float:
        self._refill()
        paused = self._paused_until - time.monotonic()
        return max(paused, (wanted - self._left) / self._per_second)

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now


class Answer(NamedTuple):
    """What a provider answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Provider:
    """Another company's HTTP API at `url`; an async context manager, left when nobody calls it any more."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._breaker = Breaker()
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"User-Agent": "Callboard", **(headers or {})},
            limits=httpx.Limits(max_connections=50),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        budget: Budget,
        urgency: Urgency = Urgency.PLAYER,
        seconds: float = 2.0,
        attempts: int = 3,
        **how: Any,
    ) -> Answer:
        """The answer to a request; `how` is what httpx takes (`params`, `json`, `data`).

        What fails on the way or at the provider (5xx, 429) is tried again while `seconds` last, so a call
        that must not be made twice says `attempts=1`. Answers of 2xx and 4xx are the caller's to judge.
        Raises Unavailable.
        """
        pause = _FIRST_PAUSE_SECONDS
        deadline = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                for attempt in range(attempts):
                    if attempt:
                        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads callers
                        pause *= 2
                    await budget.take(urgency, deadline)
                    if not self._breaker.lets_pass():
                        break
                    answer = await self._attempt(method, path, budget, how)
                    if answer is not None:
                        return answer
        except TimeoutError:
            pass
        raise Unavailable(self.name)

    def read(self, model: type[M], answer: Answer) -> M:
        """The answer's JSON as `model`. Raises Unavailable for what the provider's documents do not tell of."""
        try:
            return model.model_validate_json(answer.body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            logger.warning("%s answered %d, and %s: %s", self.name, answer.status, where, first["msg"])
            raise Unavailable(self.name) from None

    async def _attempt(self, method: str, path: str, budget: Budget, how: Mapping[str, Any]) -> Answer | None:
        """One request; None when it failed, and may be tried again."""
        began = time.monotonic()
        outcome = "failed"
        try:
            async with self._client.stream(method, path, timeout=None, **how) as response:
                budget.heed(response.headers)
                if response.status_code == 429:
                    outcome = "limited"
                    budget.pause(_seconds_told(response.headers, ("retry-after", *_RESET)) or 1.0)
                    self._breaker.note_answer()
                    return None
                if response.is_server_error:
                    logger.info("%s answered %d", self.name, response.status_code)
                    self._breaker.note_failure()
                    return None
                answer = Answer(response.status_code, response.headers, await _read_body(response))
            outcome = "answered"
            self._breaker.note_answer()
            return answer
        except (httpx.HTTPError, _TooLarge) as error:
            logger.info("%s: %s", self.name, type(error).__name__)
            self._breaker.note_failure()
            return None
        except asyncio.CancelledError:  # the time is up, or nobody waits any more
            outcome = "abandoned"
            self._breaker.note_failure()
            raise
        finally:
            PROVIDER_SECONDS.labels(self.name, outcome).observe(time.monotonic() - began)


def _seconds_told(headers: Mapping[str, str], names: Sequence[str]) -> float | None:
    told = (_number(headers.get(name)) for name in names)
    return next((seconds for seconds in told if seconds is not None), None)


def _number(text: str | None) -> float | None:
    # The first, where a list of several limits is given.
    try:
        value = float((text or "").partition(",")[0].partition(";")[0])
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


class _TooLarge(Exception):
    pass


async def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > LARGEST_ANSWER:
            raise _TooLarge
    return bytes(body)
