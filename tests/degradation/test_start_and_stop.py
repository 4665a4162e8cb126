"""SIGTERM in the middle of work: what was acknowledged is there, and with a second replica nobody notices."""

import signal
from collections.abc import Sequence

from tests.crashes.accounting import ONCE, count
from tests.support import wait_until
from tests.support.machine import SERVICES, Machine, machine
from tests.support.visitors import Load, Seen, a_load, load, visitors


async def all_are_counted(park: Machine, acknowledged: Sequence[Seen]) -> None:
    """Fails unless each of these shifts is there, and is soon in the ledger, once."""
    assert acknowledged
    users = [one.subject for one in acknowledged]
    assert {found.shifts for found in await count(park, *users)} == {1}

    async def are_counted() -> bool:
        return await count(park, *users) == [ONCE for _ in users]

    await wait_until(are_counted, seconds=60)


def acknowledged_shifts(under_way: Load) -> list[Seen]:
    """The shifts of a load that were answered with success."""
    return [one for kind in ("log", "log with a key") for one in under_way.of(kind, 200)]


async def test_a_rolling_restart_fails_no_request_that_may_be_sent_again_and_others_only_with_503(
    park: Machine,
) -> None:
    people = [await park.person() for _ in range(2)]
    async with visitors(park) as guest:
        async with load(a_load(guest, [person.username for person in people])) as under_way:
            for number in (1, 2):
                replicas = [f"{service}-{number}" for service in SERVICES]
                await park.stop(*replicas)
                assert {park.processes[name].returncode for name in replicas} == {-signal.SIGTERM}
                await park.start(*replicas)
    for kind in ("join", "log with a key"):
        assert under_way.of(kind, 200) == under_way.of(kind)
    others = [*under_way.of("log"), *under_way.of("upload"), *under_way.of("change")]
    # What a change that was answered with 503 did is not known, so the next one may be refused.
    failed = [one for one in others if one.status not in ((200, 400) if one.kind == "change" else (200,))]
    assert [one for one in failed if (one.status, one.retry_after) != (503, "1")] == []
    await all_are_counted(park, acknowledged_shifts(under_way))


async def test_sigterm_under_load_loses_nothing_that_was_acknowledged() -> None:
    async with machine(is_one_process=True) as one:
        await one.start("callboard")
        person = await one.person()
        async with visitors(one) as guest, load(a_load(guest, [person.username])) as under_way:
            await one.stop("callboard")
        assert one.processes["callboard"].returncode == -signal.SIGTERM
        assert '"ERROR"' not in one.log("callboard")
        await one.start("callboard")
        await all_are_counted(one, acknowledged_shifts(under_way))
