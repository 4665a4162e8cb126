"""Accounts dies while it consumes: what comes again is counted once, and buried once."""

import signal

import nats
import pytest

from common.events import ShiftLogged
from tests.accounts.builders import shift_logged
from tests.crashes.points import NOT_ACKNOWLEDGED, NOT_ADDED, NOT_ALL, NOT_TERMINATED
from tests.support import unique_id, wait_until
from tests.support.accounting import count, is_counted, log
from tests.support.locks import held
from tests.support.machine import Machine


@pytest.mark.parametrize(("point", "unchanged"), [(NOT_ADDED, 0), (NOT_ACKNOWLEDGED, 1)])
async def test_a_shift_that_comes_again_after_a_crash_is_counted_once(
    park: Machine, point: str, unchanged: int
) -> None:
    user = unique_id()
    park.arm("accounts", point)
    async with park.service("shifts") as client:
        answer = await log(client, user)
    assert answer and answer.status_code == 200
    assert await park.wait("accounts") == -signal.SIGKILL
    (left,) = await count(park, user)
    assert (left.ledger_entries, left.points) == ((1, 10) if unchanged else (0, 0))
    await park.start("accounts")

    async def is_settled() -> bool:
        seen = await park.metrics("accounts")
        is_handled = seen.value("events_redelivered") >= 1 and seen.value("events_handled") >= 1
        return is_handled and seen.value("events_unchanged") >= unchanged

    await wait_until(is_settled, seconds=60)
    await wait_until(lambda: is_counted(park, user))


async def test_an_event_that_is_buried_twice_is_one_dead_letter(park: Machine) -> None:
    marker = str(unique_id())
    park.arm("accounts", NOT_TERMINATED)
    client = await nats.connect(park.servers.nats_url)
    await client.jetstream(timeout=30).publish(ShiftLogged.SUBJECT, b"{}", headers={"Nats-Msg-Id": marker})
    await client.close()
    assert await park.wait("accounts") == -signal.SIGKILL
    await park.start("accounts")

    async def came_again() -> bool:
        return (await park.metrics("accounts")).value("dead_letters") >= 1

    await wait_until(came_again)
    async with park.mongodb() as mongodb:
        found = mongodb["accounts"]["dead_letters"].find({"payload": b"{}"})
        assert [letter["_id"] async for letter in found] == [marker]


async def test_a_crash_between_the_transactions_of_a_split_batch_counts_each_shift_once(
    park: Machine,
) -> None:
    users = [unique_id() for _ in range(40)]
    events = [shift_logged(user, 10) for user in users]
    await park.stop("accounts")  # so that they come in one batch
    client = await nats.connect(park.servers.nats_url)
    stream = client.jetstream(timeout=30)
    for event in events:
        payload = event.model_dump_json().encode()
        await stream.publish(ShiftLogged.SUBJECT, payload, headers={"Nats-Msg-Id": event.id})
    await client.close()
    async with park.mongodb() as mongodb:
        accounts = mongodb["accounts"]
        await accounts["accounts"].insert_one({"id": users[20], "points": 0})
        async with held(accounts["accounts"], {"id": users[20]}):
            park.arm("accounts", NOT_ALL)
            park.launch("accounts")
            assert await park.wait("accounts") == -signal.SIGKILL
            left = await accounts["ledger"].count_documents({"user": {"$in": users}})
            assert 0 < left < len(users)
        await park.start("accounts")

        async def are_counted() -> bool:
            found = await accounts["accounts"].find({"id": {"$in": users}}).to_list()
            return [account["points"] for account in found] == [10] * len(users)

        await wait_until(are_counted, 60)
        assert await accounts["ledger"].count_documents({"user": {"$in": users}}) == len(users)
