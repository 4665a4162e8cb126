"""Where a service listens: the addresses behind its names, which come and go."""

import asyncio
import itertools
import logging
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from functools import cache
from urllib.parse import urlsplit

from common.outgoing.breaker import ProbingBreaker
from common.outgoing.client import Client
from common.outgoing.limits import OutgoingLimits

logger = logging.getLogger(__name__)

_PROBED = b"/healthz"
"""Answered by whoever is alive. /readyz waits for MongoDB, and one that is slow would open every breaker at once."""


class Replica:
    """One address of a service, with its connections and its breaker."""

    def __init__(
        self, service: str, url: str, address: str, limits: OutgoingLimits, tls: ssl.SSLContext | None
    ) -> None:
        self.address = address
        self.leaving_until = 0.0
        """When it stops, it says so in its replies; until then it comes last."""
        self._probe_lifetime = limits.probe_lifetime
        self.client = Client(url, address, limits=limits, tls=tls, on_silence=self._on_silence)
        self.breaker = ProbingBreaker(service, self.client.address, limits, self._probe, self.client.abandon)

    def _on_silence(self) -> None:
        self.breaker.probe()

    async def _probe(self) -> bool:
        try:
            await self.client.probe(_PROBED, asyncio.get_running_loop().time() + self._probe_lifetime)
        except Exception:  # whatever it is: a breaker that probed no more would stay open for good
            return False
        return True

    async def close(self) -> None:
        """Close its connections and stop probing."""
        self.client.close()
        await self.breaker.stop()


class Replicas:
    """The replicas of a service: each gets its turn to be the first to be tried.

    A name may stand for several addresses, which come and go: of containers, or of pods behind a headless Service.
    They are resolved beside the requests. Make it while the event loop runs, and close it.
    """

    def __init__(self, service: str, urls: Iterable[str], limits: OutgoingLimits) -> None:
        self.all: Sequence[Replica] = ()
        self._service = service
        self._limits = limits
        self._found: dict[str, list[Replica]] = {url: [] for url in urls}
        self._tls = _tls_context() if any(url.startswith("https:") for url in self._found) else None
        self._gone: list[Replica] = []
        self._unresolved: set[str] = set()
        self._turn = itertools.count()
        self._next_look = 0.0
        self._wait_until = 0.0
        self._leaving_until = 0.0
        self._resolving: asyncio.Task[None] | None = None

    async def in_turn(self) -> Sequence[Replica]:
        """Every replica once; the only one twice, as a service that restarts closes its connections."""
        now = time.monotonic()
        if now >= self._next_look or not self.all:
            self._start_to_resolve(now)
        if self._resolving and now < self._wait_until and not self._resolving.done():
            await asyncio.wait([self._resolving], timeout=self._wait_until - now)
        replicas = self.all
        if len(replicas) == 1:
            return (replicas[0], replicas[0])
        first = next(self._turn) % max(1, len(replicas))
        ordered = [*replicas[first:], *replicas[:first]]
        if now < self._leaving_until:  # no request should reach one just when it stops listening
            ordered.sort(key=lambda replica: replica.leaving_until > now)
        return ordered

    def note_leaving(self, replica: Replica) -> None:
        """This one says that it stops."""
        replica.leaving_until = self._leaving_until = time.monotonic() + self._limits.leaving_seconds

    async def close(self) -> None:
        """Close the connections to all of them, and stop probing."""
        if self._resolving is not None:
            self._resolving.cancel()
            await asyncio.wait([self._resolving])
        for replica in [*self.all, *self._gone]:
            await replica.close()

    def _start_to_resolve(self, now: float) -> None:
        if not self.all or now - self._next_look > self._limits.old_seconds:
            self._wait_until = now + self._limits.resolve_seconds
        self._next_look = now + self._limits.resolve_every
        if self._resolving is None or self._resolving.done():
            self._resolving = asyncio.create_task(self._resolve())

    async def _resolve(self) -> None:
        """Find who is there now. Known addresses keep their replicas; a name that fails to resolve keeps all of its own."""
        for url, known in self._found.items():
            there = {replica.address: replica for replica in known}
            host = urlsplit(url).hostname or ""
            try:
                present = await addresses(host)
            except (OSError, UnicodeError) as error:
                if url not in self._unresolved:
                    self._unresolved.add(url)
                    logger.warning(
                        "%s cannot be looked up, %d addresses stay in use: %s", host, len(known), error
                    )
                continue
            self._unresolved.discard(url)
            self._found[url] = [
                there.get(address) or Replica(self._service, url, address, self._limits, self._tls)
                for address in present
            ]
        before, self.all = self.all, [replica for found in self._found.values() for replica in found]
        self._wait_until = 0.0
        gone = [replica for replica in before if replica not in self.all]
        for replica in gone:
            replica.breaker.retire()
        self._gone = [replica for replica in [*self._gone, *gone] if replica.client.is_in_use]


@cache
def _tls_context() -> ssl.SSLContext:
    """One for all of this process: making it holds up the event loop, measured for 150 ms on a busy machine."""
    return ssl.create_default_context()


async def addresses(host: str) -> Sequence[str]:
    """What a name stands for: of containers or pods, it may be several. Raises OSError and UnicodeError.

    The system sorts them the same way each time, so whoever connects by name calls one of them only.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})
