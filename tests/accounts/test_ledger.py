"""Points: each shift counted once, and total equal to ledger."""

import asyncio

from common.events import ShiftLogged, new_id
from common.messaging.handling import Handled
from tests.accounts.builders import shift_logged
from tests.accounts.conftest import Park
from tests.support import unique_id, wait_until

DONE, UNCHANGED = Handled.DONE, Handled.UNCHANGED


async def total_and_ledger(park: Park, user: int) -> tuple[int, list[int]]:
    """The account's total, and the points of its ledger entries."""
    account = await park.database["accounts"].find_one({"id": user})
    entries = await park.database["ledger"].find({"user": user}).to_list()
    return (account or {}).get("points", -1), sorted(entry["points"] for entry in entries)


async def publish(park: Park, event: ShiftLogged) -> None:
    """Put the event into an outbox, from which it takes the way of every event."""
    row = {"subject": event.SUBJECT, "payload": event.model_dump_json().encode(), "sent": False}
    await park.database["outbox"].insert_one({"_id": new_id(), "created_at": event.occurred_at, **row})


async def test_a_shift_delivered_twice_earns_its_points_once(park: Park) -> None:
    user = unique_id()
    events = [shift_logged(user, 5), shift_logged(user, 7)]
    assert await park.service.record_shifts(events) == [DONE, DONE]
    assert await park.service.record_shifts(list(reversed(events))) == [UNCHANGED, UNCHANGED]
    assert await park.service.record_shifts([events[0], events[0]]) == [UNCHANGED, UNCHANGED]
    assert await total_and_ledger(park, user) == (12, [5, 7])


async def test_a_shift_twice_in_one_batch_earns_its_points_once(park: Park) -> None:
    event = shift_logged(unique_id(), 5)
    assert await park.service.record_shifts([event, event]) == [DONE, UNCHANGED]
    assert await total_and_ledger(park, event.user) == (5, [5])


async def test_a_batch_with_known_and_new_shifts_adds_the_new_ones(park: Park) -> None:
    user = unique_id()
    known, new = shift_logged(user, 1), shift_logged(user, 2)
    await park.service.record_shifts([known])
    assert await park.service.record_shifts([known, new]) == [UNCHANGED, DONE]
    assert await total_and_ledger(park, user) == (3, [1, 2])


async def test_a_batch_adds_to_each_account_what_its_shifts_pay_and_opens_those_that_are_missing(
    park: Park,
) -> None:
    known, other, new, also_new = (unique_id() for _ in range(4))
    await park.service.record_shifts([shift_logged(known, 1), shift_logged(other, 0)])
    paid = [(known, 5), (new, 5), (known, 2), (other, 7), (also_new, 0)]
    await park.service.record_shifts([shift_logged(user, points) for user, points in paid])
    assert await total_and_ledger(park, known) == (8, [1, 2, 5])
    assert await total_and_ledger(park, other) == (7, [0, 7])
    assert await total_and_ledger(park, new) == (5, [5])
    assert await total_and_ledger(park, also_new) == (0, [0])


async def test_two_replicas_that_get_the_same_shifts_at_once_count_them_once(park: Park) -> None:
    user = unique_id()
    events = [shift_logged(user, 1) for _ in range(20)]
    results = await asyncio.gather(
        *(park.service.record_shifts(events) for _ in range(4)), return_exceptions=True
    )
    assert [DONE] * 20 in results
    assert await park.service.record_shifts(events) == [UNCHANGED] * 20
    total, entries = await total_and_ledger(park, user)
    assert (total, len(entries)) == (20, 20)


async def test_a_shift_of_no_points_gets_its_entry(park: Park) -> None:
    event = shift_logged(unique_id(), 0)
    await park.service.record_shifts([event])
    assert await total_and_ledger(park, event.user) == (0, [0])


async def test_an_event_that_is_published_reaches_the_total(park: Park) -> None:
    event = shift_logged(unique_id(), 4)
    for _ in range(2):  # the same event under two ids of the bus is still the same event
        await publish(park, event)

    async def is_counted() -> bool:
        return await total_and_ledger(park, event.user) == (4, [4])

    await wait_until(is_counted)
