"""How often one key may call, and how many wrong keys one address may try; counted in memory."""

import math
import time
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from common.errors import ServiceError
from common.plugins import PluginContext
from gateway.errors import TooManyRequests, WrongKey
from gateway.models import ParsedRate, Rate, parse_rate
from gateway.policies import Call


class Options(BaseModel):
    """`plugins.options.rate_limit`; a key's own rate comes before `per_key`."""

    model_config = ConfigDict(extra="forbid")

    per_key: Rate = "60000/min"
    wrong_keys_per_address: Rate = "60/min"


class RateLimit:
    """Counts the requests of a key and the wrong keys of an address, each in fixed windows of time."""

    def __init__(self, context: PluginContext) -> None:
        options = context.options(Options)
        self._per_key = parse_rate(options.per_key)
        self._wrong_keys = parse_rate(options.wrong_keys_per_address)
        self._windows = Windows()

    async def check(self, call: Call) -> None:
        """Raises TooManyRequests."""
        if call.key is not None:
            rate = parse_rate(call.key.rate) if call.key.rate else self._per_key
            self._windows.count(rate, ("key", call.key.name))

    async def refused(self, call: Call, error: ServiceError) -> None:
        """Answers TooManyRequests in place of WrongKey; right keys from the same address still pass."""
        if isinstance(error, WrongKey):
            self._windows.count(self._wrong_keys, ("address", call.address))


class Windows:
    """Requests counted in windows, each from its first request on; one that ended is soon forgotten."""

    def __init__(self, sweep_seconds: float = 60) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}
        self._sweep_seconds = sweep_seconds
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._windows)

    def count(self, rate: ParsedRate, whose: tuple[str, str]) -> None:
        """Count a request. Raises TooManyRequests for one too many."""
        now = time.monotonic()
        window = self._windows.get(whose)
        if window is None or now >= window.ends_at:
            self._sweep(now)
            window = self._windows[whose] = _Window(now + rate.seconds)
        if window.requests >= rate.requests:
            raise TooManyRequests(max(1, math.ceil(window.ends_at - now)))
        window.requests += 1

    def _sweep(self, now: float) -> None:
        if now >= self._next_sweep:
            self._next_sweep = now + self._sweep_seconds
            self._windows = {whose: window for whose, window in self._windows.items() if now < window.ends_at}


@dataclass(slots=True)
class _Window:
    ends_at: float
    requests: int = 0
