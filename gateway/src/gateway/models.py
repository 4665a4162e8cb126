"""A key, as it is stored and as the gateway knows it."""

import re
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from common.group import PlaceId

KeyScope = Literal["roblox", "discord", "operator"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
ROBLOX: KeyScope = "roblox"
"""The one scope that routes for Roblox servers only are open to, and so the one that can be limited to places."""

_MAPPED_BITS = 96
"""What stands before the 32 bits of an IPv4 address in an IPv6 one."""
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h|day)")
_UNITS = {"s": 1, "min": 60, "h": 3600, "day": 86_400}


class ParsedRate(NamedTuple):
    """So many requests in so many seconds."""

    requests: int
    seconds: int


@lru_cache(1024)
def parse_rate(text: str) -> ParsedRate:
    """The limit that "500/min" means. Raises ValueError."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError('expected a number per s, min, h or day, such as "500/min"')
    return ParsedRate(int(found[1]), _UNITS[found[2]])


def _is_a_rate(text: str) -> str:
    parse_rate(text)
    return text


Rate = Annotated[str, AfterValidator(_is_a_rate)]
"""How often: a number per s, min, h or day, such as "500/min"."""


def _as_it_is_compared(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped and network.prefixlen >= _MAPPED_BITS:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
        return IPv6Network((int(network.network_address), network.prefixlen))
    return network


Network = Annotated[IPv4Network | IPv6Network, AfterValidator(_as_it_is_compared)]
"""A network as clients' addresses are compared with it: an IPv4 one within IPv6 as IPv4, without a zone."""


class Key(BaseModel):
    """All that is known of a key, which is not the key itself.

    Empty `places` or `networks` allow every one; without `rate`, the configured one holds. `current` is the
    newest key of its name, until it is revoked. A `scope` that only a newer version knows opens no route.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    hash: bytes = Field(exclude=True, repr=False)
    prefix: str
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    scope: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    places: frozenset[PlaceId] = frozenset()
    networks: tuple[Network, ...] = ()
    rate: Rate | None = None
    expires_at: AwareDatetime | None = None
    created_at: AwareDatetime
    created_by: str
    last_used_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    current: bool = True

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
