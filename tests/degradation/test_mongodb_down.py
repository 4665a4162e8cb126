"""MongoDB is away: every request is told so in time, and nothing is half written."""

import asyncio
import signal
import time
from functools import partial

import httpx
import pytest

from tests.degradation.conftest import REPLICAS
from tests.degradation.outages import AWAY, FROZEN, KILLED, away
from tests.support import unique_id, wait_until
from tests.support.accounting import NOTHING, ONCE, STORED, count, is_counted
from tests.support.machine import Machine
from tests.support.visitors import Request, Seen, observe, visitors

LIMIT_SECONDS = 3.0
"""A promise of the interface, on a machine that has time for it: what needs no MongoDB is asked at the same time."""

TRIES = 5
"""A process that the machine leaves without time makes one outage take longer, not each of them."""

STOP_SECONDS = 15.0
"""Less than the 20 seconds after which `callboard up` kills what does not stop."""


@pytest.mark.parametrize("how", [KILLED, pytest.param(FROZEN, marks=pytest.mark.long)])
async def test_without_mongodb_every_route_answers_503_in_time_and_leaves_nothing_half_written(
    park: Machine, how: str
) -> None:
    person = await park.person("Guest")
    workers = [unique_id() for _ in range(12)]
    async with visitors(park) as guest:

        async def log(user: int) -> httpx.Response:
            return await guest.log(user, key=f"shift-{user}")

        async def is_alive(_: int) -> httpx.Response:
            return await guest.game.get("/healthz")

        requests: list[tuple[str, Request]] = [
            ("profile", guest.profile),
            ("grant", lambda _: guest.change("grant", person.username)),
            ("revoke", lambda _: guest.change("revoke", person.username)),
            ("approve", guest.approve),
            ("upload", guest.upload),
            ("read", lambda _: guest.read("0123456789abcdef0123456789abcdef")),
        ]

        async def are_told_in_time() -> bool:
            async with away(park, how, "mongod"):
                return await is_told_in_time()

        async def is_told_in_time() -> bool:
            asked = [asyncio.create_task(observe(kind, request, person.id)) for kind, request in requests]
            alive: list[asyncio.Task[Seen]] = []
            for wait in (0, 0.5, 1.0):  # some find those before them still waiting for the database
                asked += [asyncio.create_task(observe_after(wait, "log", log, user)) for user in workers]
                asked += [
                    asyncio.create_task(observe_after(wait, "join", guest.join, user)) for user in workers
                ]
                alive += [asyncio.create_task(observe_after(wait, "alive", is_alive, 0)) for _ in workers]
            seen, unaffected = await asyncio.gather(*asked), await asyncio.gather(*alive)
            late = [
                one for one in seen if one.status in (408, None)
            ]  # this machine sent, or read, for too long
            assert {(one.status, one.retry_after) for one in seen if one not in late} == {(503, "1")}
            assert {one.status for one in unaffected} == {200}
            limit = LIMIT_SECONDS + max(one.seconds for one in unaffected)
            ready = await asyncio.gather(*(readiness(park, name) for name in REPLICAS))
            assert {one.status for one in ready} == {503}
            return not late and all(one.seconds <= limit for one in (*seen, *ready))

        async def is_back() -> bool:
            return all([await park.is_ready(name) for name in (*REPLICAS, "gateway")])

        for _ in range(TRIES):
            is_in_time = await are_told_in_time()
            await wait_until(is_back, seconds=60)
            if is_in_time:
                break
        assert is_in_time
        assert set(await count(park, *workers)) <= {NOTHING, STORED, ONCE}

        async def is_logged(user: int) -> bool:
            answer = await log(user)
            assert answer.status_code in (200, 503), answer.text
            return answer.status_code == 200

        for user in workers:
            await wait_until(partial(is_logged, user))
        await wait_until(lambda: is_counted(park, *workers), seconds=90)


@pytest.mark.parametrize("how", AWAY)
async def test_a_service_that_starts_before_mongodb_waits_for_it(park: Machine, how: str) -> None:
    replicas = ("accounts-1", "gateway")

    def waits(name: str, began_at: int) -> bool:
        return "waits for MongoDB" in park.log(name)[began_at:]

    await park.stop(*replicas)
    async with away(park, how, "mongod"):
        began_at = {name: len(park.log(name)) for name in replicas}
        for name in replicas:  # all at once: none waits for longer than half a minute
            park.launch(name)
        for name in replicas:
            await wait_until(partial(waits, name, began_at[name]), 60)
    for name in replicas:
        await wait_until(partial(park.is_ready, name), 60)


async def test_without_mongodb_a_service_stops_before_it_is_killed_for_it(park: Machine) -> None:
    async def stops_in_time() -> bool:
        async with away(park, KILLED, "mongod"):
            began = time.monotonic()
            park.signal("accounts-1", signal.SIGTERM)
            assert await park.wait("accounts-1") == -signal.SIGTERM
            seconds = time.monotonic() - began
        await park.start("accounts-1")
        return seconds < STOP_SECONDS

    await wait_until(stops_in_time, 240)  # a machine that pauses makes one try longer, not all


async def readiness(park: Machine, name: str) -> Seen:
    """What /readyz of a process answers."""
    async with park.service(name) as client:
        return await observe("readyz", lambda _: client.get("/readyz"), 0)


async def observe_after(seconds: float, kind: str, request: Request, subject: int) -> Seen:
    """Send a request a little later."""
    await asyncio.sleep(seconds)
    return await observe(kind, request, subject)
