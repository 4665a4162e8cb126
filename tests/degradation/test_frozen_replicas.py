"""A replica that is frozen costs who meets it a short wait, and nobody after that; it comes back by itself."""

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import httpx
import pytest

from tests.degradation.outages import FROZEN, away
from tests.support import unique_id, wait_until
from tests.support.machine import Machine, machine
from tests.support.visitors import Seen, observe, visitors

STRETCH = 60
"""Requests, about 20 of them in a second."""
CLIENTS = 4
BETWEEN_SECONDS = 0.2

GATEWAY, CERTIFICATIONS = "gateway", "certifications"

CALLERS = '{"silent_seconds": 1, "probe_seconds": 2}'
"""Twice as patient as they are."""

Request = Callable[[int], Awaitable[httpx.Response]]


@pytest.fixture(scope="module")
async def two() -> AsyncIterator[Machine]:
    """Two replicas of accounts and of shifts, and who calls them."""
    async with machine(replicas={"accounts": 2, "shifts": 2}, outgoing=CALLERS) as one:
        await one.start("accounts-1", "accounts-2", CERTIFICATIONS, "shifts-1", "shifts-2", GATEWAY)
        yield one


async def stretch(request: Request) -> list[Seen]:
    """A few seconds of requests, by clients who each wait for their answer."""
    seen: list[Seen] = []

    async def client() -> None:
        for _ in range(STRETCH // CLIENTS):
            seen.append(await observe("request", request, unique_id()))
            await asyncio.sleep(BETWEEN_SECONDS)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return seen


def failed(seen: Sequence[Seen]) -> list[Seen]:
    return [one for one in seen if one.status != 200]


def usual(seen: Sequence[Seen]) -> float:
    """What three of four requests took at most: half of them would meet a frozen replica, a pause few."""
    return statistics.quantiles([one.seconds for one in seen], n=4)[2]


def notes(one: Machine, caller: str, name: str) -> list[bool]:
    """Each time that this caller found this replica not to answer (True) and to answer again (False)."""
    address = f"{name.partition('-')[0]} at 127.0.0.1:{one.components[name].port} "
    told = [line for line in one.log(caller).splitlines() if address in line]
    return ["does not answer" in line for line in told]


def is_given_up(one: Machine, caller: str, *names: str) -> bool:
    return all((notes(one, caller, name) or [False])[-1] for name in names)


async def is_back(one: Machine, caller: str, *names: str) -> None:
    """Return once this caller sends requests to all of them again."""
    await wait_until(lambda: not any((notes(one, caller, name) or [False])[-1] for name in names))


async def bears_one_frozen(one: Machine, caller: str, request: Request, frozen: str = "accounts-1") -> None:
    """Fails unless no request does, and those that come once the caller knows take what they usually take."""
    before = await stretch(request)
    async with away(one, FROZEN, frozen):
        meanwhile = await stretch(request)

        async def is_known() -> bool:
            meanwhile.extend(await asyncio.gather(*(observe("request", request, unique_id()) for _ in "ab")))
            return is_given_up(one, caller, frozen)

        await wait_until(is_known, 60)
        after = await stretch(request)
        assert is_given_up(one, caller, frozen)
    assert failed([*before, *meanwhile, *after]) == []
    assert usual(after) < max(2 * usual(before), 0.5)
    await is_back(one, caller, frozen)


async def test_players_who_join_are_answered_by_the_replica_that_runs(two: Machine) -> None:
    member = await two.person()
    async with visitors(two) as guest:
        turn = itertools.count()

        async def request(user: int) -> httpx.Response:
            return await (guest.join(user) if next(turn) % 2 else guest.profile(member.id))

        await bears_one_frozen(two, GATEWAY, request)


async def test_grants_are_decided_by_the_replica_that_runs(two: Machine) -> None:
    people = iter(await two.people(600, "Cast Member"))
    async with visitors(two) as guest:

        async def grant(user: int) -> httpx.Response:
            return await guest.change("grant", next(people).username, key=f"grant-{user}")

        await bears_one_frozen(two, CERTIFICATIONS, grant)


async def test_shifts_with_a_key_are_logged_by_the_replica_that_runs(two: Machine) -> None:
    async with visitors(two) as guest:

        async def log(user: int) -> httpx.Response:
            return await guest.log(user, key=f"log-{user}")

        await bears_one_frozen(two, GATEWAY, log, "shifts-1")


async def fails_soon(request: Awaitable[httpx.Response]) -> None:
    async with asyncio.timeout(8):
        answer = await request
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_while_all_are_frozen_their_callers_are_told_at_once_and_others_notice_nothing(
    two: Machine,
) -> None:
    both = ("accounts-1", "accounts-2")
    worker = await two.person()
    async with visitors(two) as guest:
        async with away(two, FROZEN, *both):
            under_way = [asyncio.create_task(guest.join(unique_id())) for _ in range(8)]
            change = asyncio.create_task(guest.change("grant", worker.username, key="one"))
            await wait_until(lambda: is_given_up(two, GATEWAY, *both), 60)
            for _ in range(10):
                await fails_soon(guest.join(unique_id()))
            assert {(await request).status_code for request in under_way} <= {503, 504}
            assert (await change).status_code == 503
            assert (await guest.log(worker.id)).status_code == 200
        await is_back(two, GATEWAY, *both)
        assert (await guest.join(worker.id)).status_code == 200
        await is_back(two, CERTIFICATIONS, *both)
        assert (await guest.change("grant", worker.username, key="one")).status_code == 200
