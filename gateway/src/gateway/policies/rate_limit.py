"""How often one key may call, and how many wrong keys one address may try; counted in memory.

A rate that changes holds from the next window on.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from operator import attrgetter

from pydantic import BaseModel, ConfigDict, Field

from common.errors import ServiceError
from common.plugins import PluginContext
from common.query import MAX_TEXT
from gateway.errors import TooManyRequests, WrongKey
from gateway.models import Rate, parse_rate
from gateway.policies import Call


class Options(BaseModel):
    """`plugins.options.rate_limit`; a key's own rate comes before `per_key`.

    Each of the gateway's `replicas` counts for itself, and lets its part of every rate pass.
    """

    model_config = ConfigDict(extra="forbid")

    per_key: Rate = "60000/min"
    wrong_keys_per_address: Rate = "60/min"
    replicas: int = Field(1, ge=1)


class RateLimit:
    """Counts the requests of a key and the wrong keys of an address, each in fixed windows of time.

    Every answer to a key tells the limit that is nearest in the RateLimit fields
    (draft-ietf-httpapi-ratelimit-headers).
    """

    def __init__(self, context: PluginContext) -> None:
        self._options = context.options(Options)
        self._windows = Windows()

    async def check(self, call: Call) -> None:
        """Raises TooManyRequests."""
        if call.key is None:
            return
        name, route = call.key.name, call.route
        window = self._count(call.key.rate or self._options.per_key, "key", name)
        if route.rate and window.passes:
            # Cut, as the services refuse a longer one anyway, and each stays in memory for a while.
            part = ",".join(call.values(route.rate_by))[:MAX_TEXT] if route.rate_by else ""
            window = min(window, self._count(route.rate, route.path, name, part), key=attrgetter("remaining"))
        call.answer_headers += window.fields()
        window.check()

    async def refused(self, call: Call, error: ServiceError) -> None:
        """Answers TooManyRequests in place of WrongKey; right keys from the same address still pass."""
        if isinstance(error, WrongKey):
            rate = self._options.wrong_keys_per_address
            self._count(rate, "address", _all_that_one_caller_has(call.address)).check()

    def _count(self, rate: Rate, *whose: str) -> "Window":
        requests, seconds = parse_rate(rate)
        return self._windows.count(math.ceil(requests / self._options.replicas), seconds, whose)


def _all_that_one_caller_has(address: str) -> str:
    """The address; an IPv6 one stands for its network, as whoever has one address has all 2^64 of it."""
    try:
        return str(IPv6Network((int(IPv6Address(address)), 64), strict=False))
    except ValueError:
        return address


@dataclass(slots=True)
class Window:
    """The requests of one caller from the first on until `ends_at`, of which `limit` may pass."""

    limit: int
    seconds: int
    ends_at: float
    requests: int = 0

    @property
    def passes(self) -> bool:
        """Whether the latest request may pass."""
        return self.requests <= self.limit

    @property
    def remaining(self) -> int:
        """How many more may pass; below zero when too many came."""
        return self.limit - self.requests

    def check(self) -> None:
        """Raises TooManyRequests when the latest request may not pass."""
        if not self.passes:
            raise TooManyRequests(self._seconds_left())

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """The RateLimit fields."""
        yield b"ratelimit-policy", b'"requests";q=%d;w=%d' % (self.limit, self.seconds)
        yield b"ratelimit", b'"requests";r=%d;t=%d' % (max(0, self.remaining), self._seconds_left())

    def _seconds_left(self) -> int:
        return max(1, math.ceil(self.ends_at - time.monotonic()))


class Windows:
    """The windows by whose requests they count; one that ended is soon forgotten."""

    def __init__(self, sweep_seconds: float = 60) -> None:
        self._windows: dict[tuple[str, ...], Window] = {}
        self._sweep_seconds = sweep_seconds
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._windows)

    def count(self, limit: int, seconds: int, whose: tuple[str, ...]) -> Window:
        """Count a request; answers the window that it falls into."""
        now = time.monotonic()
        window = self._windows.get(whose)
        if window is None or now >= window.ends_at:
            self._sweep(now)
            window = self._windows[whose] = Window(limit, seconds, now + seconds)
        window.requests += 1
        return window

    def _sweep(self, now: float) -> None:
        if now >= self._next_sweep:
            self._next_sweep = now + self._sweep_seconds
            self._windows = {whose: window for whose, window in self._windows.items() if now < window.ends_at}
