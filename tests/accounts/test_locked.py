"""A person whom a process left locked when it died between its writes and its commit."""

import time
from collections.abc import Sequence

from common.events import CertificationGranted, ShiftLogged, new_id
from tests.accounts.builders import granted, shift_logged
from tests.accounts.conftest import Park
from tests.common.test_bus import connected
from tests.support import Servers, unique_id, wait_until
from tests.support.locks import held


async def publish_twice(servers: Servers, events: Sequence[ShiftLogged | CertificationGranted]) -> None:
    """Put events on the stream, each under two ids of the bus."""
    async with connected(servers) as bus:
        rows = [(event.SUBJECT, event.model_dump_json().encode(), None) for event in [*events, *events]]
        assert not any(await bus.publish_all([(new_id(), *row) for row in rows]))


async def test_while_a_person_is_locked_the_points_of_the_others_arrive(park: Park, servers: Servers) -> None:
    locked, others = unique_id(), [unique_id() for _ in range(100)]
    first = shift_logged(locked, 1)
    await park.service.record_shifts([first])
    waiting = [shift_logged(locked, 2), shift_logged(locked, 3)]
    events = [shift_logged(user, 5) for user in others]

    async def points_of(users: Sequence[int]) -> list[int]:
        found = park.database["accounts"].find({"id": {"$in": users}})
        return [account["points"] async for account in found]

    async def are_counted() -> bool:
        return await points_of(others) == [5] * len(others)

    async def is_counted() -> bool:
        return await points_of([locked]) == [6]

    async with held(park.database["accounts"], {"id": locked}):
        began = time.monotonic()
        await publish_twice(servers, [*events[:50], *waiting, *events[50:]])
        await wait_until(are_counted, 60)
        print(f"the others' points arrived {time.monotonic() - began:.2f} s after they were published")  # noqa: T201 - for people
        assert await points_of([locked]) == [1]
    await wait_until(is_counted, 60)
    ids = {"_id": {"$in": [event.id for event in (first, *waiting, *events)]}}
    assert await park.database["ledger"].count_documents(ids) == 103
    assert await park.database["dead_letters"].count_documents({}) == 0


async def test_while_a_person_is_locked_the_certifications_of_the_others_arrive(
    park: Park, servers: Servers
) -> None:
    locked, others = unique_id(), [unique_id() for _ in range(30)]
    await park.service.record_shifts([shift_logged(locked, 1)])

    async def hold(*users: int) -> bool:
        one = {"id": {"$in": users}, "certifications.tot": {"held": True, "version": 1}}
        return await park.database["accounts"].count_documents(one) == len(users)

    async with held(park.database["accounts"], {"id": locked}):
        await publish_twice(
            servers, [granted(user, "tot", 1) for user in (*others[:15], locked, *others[15:])]
        )
        await wait_until(lambda: hold(*others), 60)
        assert not await hold(locked)
    await wait_until(lambda: hold(locked), 60)
