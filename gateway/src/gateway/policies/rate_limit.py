"""How often one key may call, and how many wrong keys one address may try; counted in memory."""

import math
import time

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from pydantic import BaseModel, ConfigDict

from common.errors import ServiceError
from common.plugins import PluginContext
from gateway.errors import TooManyRequests, WrongKey
from gateway.models import Rate, parse_rate
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
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def check(self, call: Call) -> None:
        """Raises TooManyRequests."""
        if call.key is not None:
            limit = parse_rate(call.key.rate) if call.key.rate else self._per_key
            await self._count(limit, "key", call.key.name)

    async def refused(self, call: Call, error: ServiceError) -> None:
        """Answers TooManyRequests in place of WrongKey; right keys from the same address still pass."""
        if isinstance(error, WrongKey):
            await self._count(self._wrong_keys, "address", call.address)

    async def _count(self, limit: RateLimitItem, *whose: str) -> None:
        if not await self._limiter.hit(limit, *whose):
            window = await self._limiter.get_window_stats(limit, *whose)
            raise TooManyRequests(max(1, math.ceil(window.reset_time - time.time())))
