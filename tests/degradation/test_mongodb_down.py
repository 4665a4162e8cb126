"""MongoDB is away: every request is told so in time, and nothing is half written."""

import asyncio

import pytest

from tests.crashes.accounting import NOTHING, ONCE, count
from tests.degradation.conftest import REPLICAS
from tests.degradation.outages import AWAY, away
from tests.support import unique_id, wait_until
from tests.support.machine import Machine
from tests.support.visitors import observe, visitors

LIMIT_SECONDS = 3.0
"""A promise of the interface, not a guess of this test's."""


@pytest.mark.parametrize("how", AWAY)
async def test_without_mongodb_every_route_answers_503_in_time_and_leaves_nothing_half_written(
    park: Machine, how: str
) -> None:
    person = await park.person("Guest")
    workers = [unique_id() for _ in range(12)]
    async with visitors(park) as guest:

        def keyed(user: int):  # type: ignore[no-untyped-def]
            return guest.log(user, key=f"shift-{user}")

        async with away(park, how, "mongod"):
            requests = [
                *(("log", keyed, user) for user in workers),
                *(("join", guest.join, unique_id()) for _ in range(12)),
                ("profile", guest.profile, person.id),
                ("grant", lambda _: guest.change("grant", person.username), 0),
                ("revoke", lambda _: guest.change("revoke", person.username), 0),
                ("approve", guest.approve, person.id),
                ("upload", guest.upload, person.id),
                ("read", lambda _: guest.read("0123456789abcdef0123456789abcdef"), 0),
            ]
            # The second round finds the first still waiting for the database.
            rounds = []
            for _ in range(2):
                rounds += [asyncio.create_task(observe(*request)) for request in requests]
                await asyncio.sleep(0.5)  # noqa: ASYNC251
            seen = await asyncio.gather(*rounds)
            for one in seen: print(one)
            assert {(one.status, one.retry_after) for one in seen} == {(503, "1")}
            assert [one for one in seen if one.seconds > LIMIT_SECONDS] == []
            for name in REPLICAS:
                async with park.service(name) as client:
                    ready = await observe("readyz", lambda _: client.get("/readyz"), 0)
                assert ready.status == 503
                assert ready.seconds < LIMIT_SECONDS

        async def is_back() -> bool:
            return all([await park.is_ready(name) for name in (*REPLICAS, "gateway")])

        await wait_until(is_back, seconds=30)
        assert set(await count(park, *workers)) <= {NOTHING, ONCE}
        for user in workers:
            answer = await keyed(user)
            assert answer.status_code == 200, answer.text

        async def are_counted() -> bool:
            return await count(park, *workers) == [ONCE for _ in workers]

        await wait_until(are_counted, seconds=30)
