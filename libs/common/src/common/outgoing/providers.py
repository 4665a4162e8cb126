"""Calls to other companies' services: within what they allow, never for long, and none while they are down."""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from enum import IntEnum
from functools import cache
from types import TracebackType
from typing import Annotated, Any, NamedTuple, Self, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticOmit

from common.errors import Unavailable
from common.metrics import PROVIDER_SECONDS
from common.outgoing.breaker import Breaker

logger = logging.getLogger(__name__)

for _name in ("httpx", "httpcore"):
    # They log whole URLs, and httpcore every header: a key may stand in either.
    logging.getLogger(_name).setLevel(logging.WARNING)

LARGEST_ANSWER = 1 << 20
"""Bytes of a provider's answer, unpacked; their pages of a hundred members have a fraction of that."""

# Discord's x-ratelimit-reset is a time of day, beside which it sends the seconds; Roblox's is the seconds.
_RESET = ("x-ratelimit-reset-after", "x-ratelimit-reset")
_FIRST_PAUSE_SECONDS = 0.1
_BURST_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 120.0
_SECONDS_BETWEEN_COMPLAINTS = 60.0
_LONGEST_REASON = 200

M = TypeVar("M", bound=BaseModel)
Item = TypeVar("Item")


def _omit_unreadable(value: object, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    try:
        return read(value)
    except ValidationError as error:
        if info.context is None:  # not read by `Provider.read`
            raise
        info.context.append(_what_is_wrong(error))
        raise PydanticOmit from None


def _what_is_wrong(error: ValidationError) -> str:
    """Where and why, without the value: somebody's data may stand in it."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}"


Listed = Annotated[Item, WrapValidator(_omit_unreadable)]
"""An item of a list in a model for `Provider.read`, where one that cannot be read is omitted, and logged.

What was wrong with each is in the validation context, a list of texts.
"""


class Urgency(IntEnum):
    """Who waits for a call: what is less urgent leaves more of a budget to the others (in tenths)."""

    DECISION = 0
    """A person decided something, such as an approval."""
    PLAYER = 2
    """A player or a moderator waits for an answer."""
    BACKGROUND = 5
    """Nobody waits."""


class Budget:
    """How many calls may be made in any minute, and no more than what the provider itself says is left.

    A bucket that holds the calls of five seconds, so that a few at once need not wait. `longest_pause` is how
    many seconds the provider is believed that it wants to be left alone.
    """

    def __init__(self, per_minute: float, longest_pause: float = _LONGEST_PAUSE_SECONDS) -> None:
        self._longest_pause = longest_pause
        self._most = max(1.0, per_minute * _BURST_SECONDS / (60 + _BURST_SECONDS))
        self._per_second = (per_minute - self._most) / 60
        if self._per_second <= 0:
            raise ValueError("expected more than one call a minute")
        self._left = self._most
        self._counted_at = time.monotonic()
        self._told_limit = self._told_left = float("inf")
        self._told_until = 0.0
        self._paused_until = 0.0

    async def take(self, urgency: Urgency, deadline: float) -> None:
        """Return once a call may be made. Raises TimeoutError at once if none may before `deadline`.

        What is in the background has waited long enough after half of the time, and is then as urgent as a
        player: else a crowd of players, who never end, would keep it out for good.
        """
        now = time.monotonic()
        half = max(now, (now + deadline) / 2)
        later = min(urgency, Urgency.PLAYER)
        while (wait := self._seconds_until(urgency if now <= half else later)) > 0:
            if now <= half:
                wait = min(wait, max(half - now, self._seconds_until(later)))
            if now + wait >= deadline:
                raise TimeoutError
            await asyncio.sleep(wait)
            now = time.monotonic()
        self._left -= 1
        self._told_left -= 1

    def pause(self, seconds: float) -> None:
        """Make no call for this long: the provider said so."""
        until = time.monotonic() + min(seconds, self._longest_pause)
        self._paused_until = max(self._paused_until, until)

    def heed(self, headers: Mapping[str, str]) -> None:
        """Keep to what the answer's headers say is left, for as long as they say it."""
        remaining = _number(headers.get("x-ratelimit-remaining"))
        seconds = _seconds_told(headers, _RESET)
        if remaining is None or seconds is None:
            return
        self._told_limit = _number(headers.get("x-ratelimit-limit")) or float("inf")
        now = time.monotonic()
        until = now + min(seconds, self._longest_pause)
        # The time told is rounded, so the next window may begin before this one seems to be over.
        is_next = now >= self._told_until or until > self._told_until + max(1.0, seconds / 2)
        # Answers overtake each other, and calls under way are not counted yet: the least is right.
        self._told_left = remaining if is_next else min(self._told_left, remaining)
        self._told_until = until

    def _seconds_until(self, urgency: Urgency) -> float:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        wanted = 1 + (self._most - 1) * urgency / 10
        told_wanted = 1 + (min(self._most, self._told_limit) - 1) * urgency / 10
        told = self._told_until - now if self._told_left < told_wanted else 0.0
        return max(self._paused_until - now, told, (wanted - self._left) / self._per_second)


class Complaints:
    """Whether it is time to complain in the log again: what is wrong with a provider is wrong with every call."""

    def __init__(self) -> None:
        self._next_at = float("-inf")

    def are_due(self) -> bool:
        """Once a minute at most."""
        now = time.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + _SECONDS_BETWEEN_COMPLAINTS
        return True


def fit_to_show(text: str) -> str:
    """What a provider said, as one short line that no log and no terminal stumbles over."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:_LONGEST_REASON]


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
        self._complaints = Complaints()
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"User-Agent": "Callboard", **(headers or {})},
            limits=httpx.Limits(max_connections=50),
            verify=_certificates(),
            # httpx reads the environment too, and raises for what it cannot read, such as NO_PROXY=fd00::/8.
            trust_env=False,
            proxy=_proxy_for(url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def failures(self) -> int:
        """How many requests in a row were sent and failed, on the way or there: some may have taken effect."""
        return self._breaker.failures

    async def close(self) -> None:
        """End its connections."""
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

        What fails on the way or at the provider (5xx, 429, a redirect) is tried again while `seconds` last,
        so a call that must not be made twice says `attempts=1`. Answers of 2xx and 4xx are the caller's to
        judge. Raises Unavailable.
        """
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(attempts):
            if attempt:
                wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads callers
                if time.monotonic() + wait >= deadline:
                    break
                await asyncio.sleep(wait)
                pause *= 2
            if not self._breaker.lets_pass():
                break
            try:
                await budget.take(urgency, deadline)
            except TimeoutError:
                break
            # The first attempt leaves time for a second: what hangs often answers when it is asked again.
            share = 2 if attempt == 0 and attempts > 1 else 1
            limit = (deadline - time.monotonic()) / share
            if limit <= 0:
                break
            if (answer := await self._attempt(method, path, budget, limit, how)) is not None:
                return answer
        raise Unavailable(self.name)

    def read(self, model: type[M], answer: Answer) -> M:
        """The answer's JSON as `model`. Raises Unavailable for what the provider's documents do not tell of."""
        omitted: list[str] = []
        try:
            found = model.model_validate_json(answer.body, context=omitted)
        except ValidationError as error:
            logger.warning("%s answered %d, and %s", self.name, answer.status, _what_is_wrong(error))
            raise Unavailable(self.name) from None
        if omitted and self._complaints.are_due():
            logger.warning(
                "%s answered with a list of which %d cannot be read, and are left out: %s",
                self.name,
                len(omitted),
                omitted[0],
            )
        return found

    async def _attempt(
        self, method: str, path: str, budget: Budget, seconds: float, how: Mapping[str, Any]
    ) -> Answer | None:
        """One request; None when it failed, and may be tried again."""
        began = time.monotonic()
        outcome = "failed"
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, path, timeout=None, **how) as response,
            ):
                budget.heed(response.headers)
                if response.status_code == 429:
                    outcome = "limited"
                    budget.pause(await _pause_told(response))
                    self._breaker.note_answer()
                    return None
                if response.status_code >= 500 or response.is_redirect:
                    logger.info("%s answered %d", self.name, response.status_code)
                    self._breaker.note_failure()
                    return None
                answer = Answer(response.status_code, response.headers, await _read_body(response))
            outcome = "answered"
            self._breaker.note_answer()
            return answer
        except (httpx.HTTPError, _TooLarge, TimeoutError) as error:
            logger.info("%s: %s", self.name, type(error).__name__)
            self._breaker.note_failure()
            return None
        except asyncio.CancelledError:  # nobody waits any more, which is not the provider's failure
            outcome = "abandoned"
            raise
        finally:
            PROVIDER_SECONDS.labels(self.name, outcome).observe(time.monotonic() - began)


@cache
def _certificates() -> ssl.SSLContext:
    """One for all: to read them takes a tenth of a second each time."""
    return httpx.create_ssl_context()


def _proxy_for(url: str) -> httpx.Proxy | None:
    """The proxy that the environment names for `url` (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY)."""
    own = httpx.URL(url)
    proxies = getproxies()
    named = (proxies.get(own.scheme) or proxies.get("all") or "").strip()
    is_for_none = "*" in {item.strip() for item in proxies.get("no", "").split(",")}
    if not named or is_for_none or proxy_bypass(own.host):
        return None
    return _read_proxy(named)


@cache
def _read_proxy(named: str) -> httpx.Proxy | None:
    """The proxy at this address; None, with one warning, where it cannot be used."""
    try:
        proxy = httpx.Proxy(named if "://" in named else f"http://{named}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        # The address is not shown: a password may stand in it.
        logger.warning(
            "the proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not used, other companies are called directly: "
            "it must be http://<host>:<port> or https://<host>:<port>"
        )
        return None
    return proxy


def _seconds_told(headers: Mapping[str, str], names: Sequence[str]) -> float | None:
    told = (_number(headers.get(name)) for name in names)
    return next((seconds for seconds in told if seconds is not None), None)


class _Limited(BaseModel):
    retry_after: float = Field(1.0, ge=0, allow_inf_nan=False)


async def _pause_told(response: httpx.Response) -> float:
    """How many seconds a 429 asks for: by a header, as seconds or as a date, or else in its body, as Discord does."""
    seconds = _seconds_told(response.headers, ("retry-after",))
    if seconds is None:
        with suppress(ValueError):
            # By the provider's own clock, where it tells the time: ours may be wrong.
            now = response.headers.get("date") or format_datetime(datetime.now(UTC))
            until = parsedate_to_datetime(response.headers.get("retry-after", ""))
            seconds = max(0.0, (until - parsedate_to_datetime(now)).total_seconds())
    if seconds is None:
        seconds = _seconds_told(response.headers, _RESET)
    if seconds is None:
        try:
            seconds = _Limited.model_validate_json(await _read_body(response)).retry_after
        except ValidationError:
            seconds = 1.0
    return seconds


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
