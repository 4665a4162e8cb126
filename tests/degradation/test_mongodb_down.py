"""MongoDB is away: every request is told so in time, and nothing is half written."""

import asyncio
import signal
from functools import partial

import httpx
import pytest

from tests.crashes.accounting import NOTHING, ONCE, STORED, count
from tests.degradation.conftest import REPLICAS
from tests.degradation.outages import AWAY, away
from tests.support import unique_id, wait_until
from tests.support.machine import Machine
from tests.support.visitors import Request, Seen, observe, visitors

LIMIT_SECONDS = 3.0
"""A promise of the interface, not a guess of this test's."""

STOP_SECONDS = 15.0
"""Less than the 20 seconds after which `callboard up` kills what does not stop."""


@pytest.mark.parametrize("how", AWAY)
async def test_without_mongodb_every_route_answers_503_in_time_and_leaves_nothing_half_written(
    park: Machine, how: str
) -> None:
    person = await park.person("Guest")
    workers = [unique_id() for _ in range(12)]
    async with visitors(park) as guest:

        async def log(user: int) -> httpx.Response:
            return await guest.log(user, key=f"shift-{user}")

        requests: list[tuple[str, Request]] = [
            ("profile", guest.profile),
            ("grant", lambda _: guest.change("grant", person.username)),
            ("revoke", lambda _: guest.change("revoke", person.username)),
            ("approve", guest.approve),
            ("upload", guest.upload),
            ("read", lambda _: guest.read("0123456789abcdef0123456789abcdef")),
        ]
        async with away(park, how, "mongod"):
            asked = [asyncio.create_task(observe(kind, request, person.id)) for kind, request in requests]
            for wait in (0, 0.5, 1.0):  # some find those before them still waiting for the database
                asked += [asyncio.create_task(observe_after(wait, "log", log, user)) for user in workers]
                asked += [
                    asyncio.create_task(observe_after(wait, "join", guest.join, user)) for user in workers
                ]
            seen = await asyncio.gather(*asked)
            assert {(one.status, one.retry_after) for one in seen} == {(503, "1")}
            assert [one for one in seen if one.seconds > LIMIT_SECONDS] == []
            for name in REPLICAS:
                async with park.service(name) as client:
                    ready = await observe("readyz", partial(_readyz, client), 0)
                assert (ready.status, ready.seconds < LIMIT_SECONDS) == (503, True)
            park.signal("accounts-1", signal.SIGTERM)
            assert await park.wait("accounts-1", STOP_SECONDS) == -signal.SIGTERM
        await park.start("accounts-1")

        async def is_back() -> bool:
            return all([await park.is_ready(name) for name in (*REPLICAS, "gateway")])

        await wait_until(is_back, seconds=30)
        assert set(await count(park, *workers)) <= {NOTHING, STORED, ONCE}
        for user in workers:
            answer = await log(user)
            assert answer.status_code == 200, answer.text

        async def are_counted() -> bool:
            return await count(park, *workers) == [ONCE for _ in workers]

        await wait_until(are_counted, seconds=30)


async def _readyz(client: httpx.AsyncClient, _: int) -> httpx.Response:
    return await client.get("/readyz")


async def observe_after(seconds: float, kind: str, request: Request, subject: int) -> Seen:
    """Send a request a little later."""
    await asyncio.sleep(seconds)
    return await observe(kind, request, subject)
