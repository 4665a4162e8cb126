"""SIGTERM in the middle of work: what was acknowledged is there, and with a second replica nobody notices."""

import signal
from collections.abc import Sequence

import httpx

from tests.support import wait_until
from tests.support.accounting import count, is_counted
from tests.support.machine import SERVICES, Machine, machine
from tests.support.visitors import a_load, load, visitors


async def are_counted(park: Machine, users: Sequence[int]) -> None:
    """Fails unless each of these people's shifts is there, and is soon in the ledger, once."""
    assert len(users) > 10
    assert {found.shifts for found in await count(park, *users)} == {1}
    await wait_until(lambda: is_counted(park, *users), seconds=60)


async def test_a_rolling_restart_fails_no_request_that_may_be_sent_again_and_others_only_with_503(
    park: Machine,
) -> None:
    async with visitors(park) as guest, load(await a_load(park, guest)) as under_way:
        for number in (1, 2):
            replicas = [f"{service}-{number}" for service in SERVICES]
            await park.stop(*replicas)
            assert {park.processes[name].returncode for name in replicas} == {-signal.SIGTERM}
            await park.start(*replicas)
    assert under_way.failed("join", "log with a key") == []
    failed = under_way.failed("log", "upload", "change", "approve")
    assert [one for one in failed if (one.status, one.retry_after) != (503, "1")] == []
    await are_counted(park, under_way.acknowledged_shifts)


async def test_a_service_that_stops_answers_those_who_are_connected_and_tells_them_to_go(
    park: Machine,
) -> None:
    async def is_told_to_go() -> bool:
        async with park.service("shifts-1") as client:
            await client.get("/readyz")
            park.signal("shifts-1", signal.SIGTERM)
            try:
                while "connection" not in (answer := await client.get("/readyz")).headers:
                    pass  # asked before the service knew
            except httpx.TransportError:  # nobody asked in the seconds that it waits
                return False
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        return answer.headers["connection"] == "close"

    async def is_told_to_go_before_it_ends() -> bool:
        is_told = await is_told_to_go()
        assert await park.wait("shifts-1") == -signal.SIGTERM
        await park.start("shifts-1")
        return is_told

    await wait_until(is_told_to_go_before_it_ends, 120)  # a machine that pauses spoils one try, not all


async def test_sigterm_under_load_loses_nothing_that_was_acknowledged() -> None:
    async with machine(is_one_process=True) as one:
        await one.start("callboard")
        async with visitors(one) as guest, load(await a_load(one, guest)) as under_way:
            await one.stop("callboard")
        assert one.processes["callboard"].returncode == -signal.SIGTERM
        assert '"ERROR"' not in one.log("callboard")
        await one.start("callboard")
        await are_counted(one, under_way.acknowledged_shifts)
