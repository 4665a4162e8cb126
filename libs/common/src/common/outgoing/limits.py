"""The limits of calls to our own services."""

from common.limits import Limits, Wait


class OutgoingLimits(Limits):
    """Those of connections, requests and failures are for each address where a service listens."""

    connect_seconds: Wait = 1.0
    max_connections: int = 128
    """Beyond these, requests wait: those to a service that does not answer must not use up what others need."""
    max_waiting: int = 900
    """Beyond these, requests are refused at once, as they would wait for longer than anybody waits for them."""
    idle_seconds: float = 2.0
    """How long a connection is kept for the next request: less than the other end waits, also when it stops."""
    leaving_seconds: float = 3.0
    """How long a replica that says that it stops is asked last: as long as it still answers."""

    max_head_bytes: int = 64 * 1024
    max_body_bytes: int = 8 * 1024 * 1024
    """Of a reply, as it is held in memory; one that grows beyond is broken off."""

    silent_seconds: Wait = 0.5
    """A replica that says nothing for this long while requests wait for it is probed."""
    probe_seconds: Wait = 1.0
    """A probe that takes longer opens the breaker."""
    probe_lifetime: Wait = 3.0
    """How long a probe waits for its late reply, which closes the breaker, before the next one is sent."""
    probe_every: float = 0.5
    max_failures: int = 5
    """So many in a row open the breaker."""

    locked_every: float = 0.5
    """How often a repeatable request is sent again while what an earlier attempt began may lock what it needs."""

    resolve_every: float = 1.0
    """How often the addresses of a name are resolved, while there are requests."""
    resolve_seconds: Wait = 1.0
    """How long requests wait for the first addresses, and after a time without requests. Others use those known before."""
    old_seconds: float = 10.0
    """Addresses that nobody resolved for this long may all be gone."""

    max_local: int = 1024
    """Requests to a service of the same process; the next is refused at once rather than kept waiting."""
