"""A part that is away takes along only what needs it; what it missed arrives once it is back."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import aiohttp
import httpx
import pytest

from tests.degradation.outages import AWAY, FROZEN, KILLED, away
from tests.support import unique_id, wait_until
from tests.support.machine import Machine
from tests.support.visitors import Visitors, visitors

FAST_SECONDS = 8.0
"""A generous limit for an answer that waits for nobody who is away."""


async def is_done(request: Awaitable[httpx.Response]) -> None:
    """Fails unless the request succeeds, and soon."""
    async with asyncio.timeout(FAST_SECONDS):
        answer = await request
    assert answer.status_code == 200, answer.text


async def readiness(park: Machine, name: str) -> tuple[int, Any]:
    """What /readyz of a process says."""
    async with park.service(name) as client:
        answer = await client.get("/readyz")
    return answer.status_code, answer.json()


async def arrives(guest: Visitors, user: int, points: int, certifications: list[str]) -> None:
    """Return once /profile shows this."""

    async def is_shown() -> bool:
        shown = await guest.shown(user)
        return (shown["points"], shown["certifications"]) == (points, certifications)

    await wait_until(is_shown, seconds=90)  # what was on its way to one who went comes again after 30


async def unsent(park: Machine, *names: str) -> list[bool]:
    """Whether events wait in the outboxes, as each process counts and ages them."""
    seen = [await park.metrics(name) for name in names]
    return [one.value("outbox_unsent") > 0 and one.value("outbox_oldest_seconds") > 0 for one in seen]


@pytest.mark.parametrize("how", AWAY)
async def test_without_nats_shifts_and_certifications_are_taken_and_told_later(
    park: Machine, how: str
) -> None:
    worker = await park.person()
    replicas = ("shifts-1", "shifts-2", "certifications-1", "certifications-2")
    async with visitors(park) as guest:
        async with away(park, how, "nats-server"):
            await is_done(guest.log(worker.id))
            for what in ("grant", "revoke", "grant"):
                await is_done(guest.change(what, worker.username))

            async def are_counted() -> bool:
                return all(await unsent(park, *replicas))

            await wait_until(are_counted)

            async def are_ready() -> bool:  # which a MongoDB that takes a second is enough to end
                states = [await readiness(park, name) for name in replicas]
                told = {state["nats"] for _, state in states}
                return {status for status, _ in states} == {200} and (told == {"down"} or how != KILLED)

            await wait_until(are_ready)
            if how == KILLED:
                await park.stop("certifications-1")
                await park.start("certifications-1")  # what a restart finds in the outbox waits on
            assert (await guest.shown(worker.id))["points"] == 0
        await arrives(guest, worker.id, 10, ["tot"])

        async def are_sent() -> bool:
            return not any(await unsent(park, *replicas))

        await wait_until(are_sent)


@pytest.mark.parametrize("how", AWAY)
async def test_without_accounts_shifts_are_logged_and_counted_later(park: Machine, how: str) -> None:
    worker = await park.person()
    async with visitors(park) as guest:
        async with away(park, how, "accounts-1", "accounts-2"):
            await is_done(guest.log(worker.id))
            grant = await guest.change("grant", worker.username)
            assert (grant.status_code, grant.headers["retry-after"]) == (503, "1")
        await arrives(guest, worker.id, 10, [])
        await is_done(guest.change("grant", worker.username))


@pytest.mark.parametrize("how", AWAY)
async def test_without_certifications_a_shift_is_never_refused_for_what_cannot_be_asked(
    park: Machine, how: str
) -> None:
    holder, other = await park.person(), await park.person()
    async with visitors(park) as guest, park.mongodb() as mongodb:
        await is_done(guest.change("grant", holder.username))

        async def is_copied() -> bool:
            held = {"_id": holder.id, "certifications.tot.held": True}
            return await mongodb["shifts"]["members"].find_one(held) is not None

        await wait_until(is_copied)
        async with away(park, how, "certifications-1", "certifications-2"):
            await is_done(guest.log(holder.id, place=1002))
            refused = await guest.log(other.id, place=1002)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            await is_done(guest.log(other.id, place=1001))

        async def is_refused() -> bool:  # once one who just came back answers in the 0.3 s that it is given
            refused = await guest.log(other.id, place=1002, server="server-2")
            if refused.status_code == 503:
                return False
            assert (refused.status_code, refused.json()["message"]) == (400, "invalid certification")
            return True

        await wait_until(is_refused)


async def test_without_shifts_players_join_and_are_looked_up(park: Machine) -> None:
    worker = await park.person()
    async with visitors(park) as guest, away(park, KILLED, "shifts-1", "shifts-2"):
        await is_done(guest.join(worker.id))
        await is_done(guest.profile(worker.id))
        shift = await guest.log(worker.id)
        assert (shift.status_code, shift.headers["retry-after"]) == (503, "1")


@pytest.mark.long
async def test_a_service_that_does_not_answer_costs_its_own_callers_ten_seconds_and_nobody_else(
    park: Machine,
) -> None:
    waiting = 600  # more than the connections that the gateway makes to the two replicas
    async with (
        visitors(park) as guest,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as crowd,  # httpx is slow with so many
    ):

        async def join(user: int) -> tuple[int, str | None, float]:
            url = f"{guest.game.base_url}/connect?id={user}&place=1001&training=false"
            began = time.monotonic()
            async with crowd.get(url, headers=dict(guest.game.headers)) as answer:
                return answer.status, answer.headers.get("retry-after"), time.monotonic() - began

        async with away(park, FROZEN, "accounts-1", "accounts-2"):
            joins = [asyncio.create_task(join(unique_id())) for _ in range(waiting)]
            while not all(task.done() for task in joins):
                user = unique_id()
                await is_done(guest.log(user, server=f"server-{user}"))
            answers = await asyncio.gather(*joins)
        assert {(status, retry_after) for status, retry_after, _ in answers} <= {(503, "1"), (504, "1")}
        assert max(seconds for _, _, seconds in answers) < 15

        async def is_let_through() -> bool:  # which a breaker does within half a second
            return (await guest.join(unique_id())).status_code == 200

        await wait_until(is_let_through)
