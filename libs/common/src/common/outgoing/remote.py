"""A service in processes of its own, called over HTTP."""

import asyncio
import math
from collections.abc import Iterable, Sequence

from common import metrics
from common.errors import ServiceError, Unavailable
from common.outgoing.client import Busy, Lost, NotConnected, Silent
from common.outgoing.errors import ServiceLost, ServiceSlow
from common.outgoing.headers import TOKEN_HEADER
from common.outgoing.limits import OutgoingLimits
from common.outgoing.message import Answer, Outgoing
from common.outgoing.replicas import Replica, Replicas


class RemoteService:
    """A service at one or several URLs. Make it while the event loop runs, and close it."""

    def __init__(self, name: str, urls: Iterable[str], token: str, limits: OutgoingLimits) -> None:
        self._name = name
        self._token = (TOKEN_HEADER.encode(), token.encode())
        self._limits = limits
        self._replicas = Replicas(name, urls, limits)
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Close the connections; requests under way are lost."""
        await self._replicas.close()

    async def send(self, request: Outgoing) -> Answer:
        """The service's reply.

        The next replica is tried where this one cannot be reached, is busy or has another token; of a repeatable
        request also where it breaks off, or is silent for its share of the time that is left: half of it while there
        is another to be tried. After such an attempt, 503 may come of what that began and holds locked: the request
        is sent again while there is time. Raises Unavailable, ServiceLost and ServiceSlow.
        """
        deadline = self._loop.time() + request.seconds
        target = request.path.encode() + (b"?" + request.query if request.query else b"")
        headers = [*request.headers, self._token]
        replicas = list(await self._replicas.in_turn())
        error: ServiceError | None = None
        for number, replica in enumerate(replicas):
            if replica.breaker.is_open:
                continue
            has_another = _has_another(replicas, number)
            left = deadline - self._loop.time() if number or has_another else request.seconds
            if left <= 0:
                break
            share = left / 2 if has_another else math.inf
            try:
                status, answered, body, is_last = await replica.client.send(
                    request.method, target, headers, request.body, deadline, share, request.repeatable
                )
            except TimeoutError:
                self._count_failure("slow")
                raise ServiceSlow(self._name) from None
            except Silent:
                self._count_failure("silent")
                error = ServiceSlow(self._name)
            except Busy:
                self._count_failure("busy")
            except NotConnected:
                replica.breaker.note_failure()
                self._count_failure("unreachable")
            except Lost:
                replica.breaker.note_failure()
                self._count_failure("lost")
                error = ServiceLost(self._name)
                if not request.repeatable:
                    break
            else:
                replica.breaker.note_answer()
                if is_last:
                    self._replicas.note_leaving(replica)
                if (
                    status == 503
                    and error is not None
                    and self._loop.time() + self._limits.locked_every < deadline
                ):
                    # A frozen replica can hold a transaction open, until MongoDB ends it.
                    await asyncio.sleep(self._limits.locked_every)
                    replicas.append(replica)
                    continue
                if status != 401:
                    return Answer(status, answered, body)
                # Our token is not its own, as while one is replaced: it did nothing, and it is not for the caller,
                # who has a key.
                self._count_failure("refused")
        raise error or Unavailable(self._name)

    def _count_failure(self, reason: str) -> None:
        metrics.UPSTREAM_FAILURES.labels(self._name, reason).inc()


def _has_another(replicas: Sequence[Replica], number: int) -> bool:
    """Whether another replica than this one comes later and may be asked."""
    this = replicas[number]
    for later in range(number + 1, len(replicas)):  # not by any(), as every request asks this
        other = replicas[later]
        if other is not this and not other.breaker.is_open:
            return True
    return False
