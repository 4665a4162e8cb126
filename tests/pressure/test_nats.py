"""NATS is full, or comes back empty: events wait in the outbox, and what was counted stays counted."""

import shutil

import nats
from nats.js.errors import APIError

from common.stream import STREAM
from tests.support import unique_id, wait_until
from tests.support.accounting import ONCE, STORED, buried, count, is_counted, log
from tests.support.machine import Machine

FILLER = "callboard.filler.v1"


async def fill(park: Machine) -> None:
    """Leave no room in the stream, not even for a small event."""
    client = await nats.connect(park.servers.nats_url)
    stream = client.jetstream(timeout=30)
    for size in (100_000, 1_000, 1):
        try:
            while True:
                await stream.publish(FILLER, b"x" * size)
        except APIError as error:
            assert error.description == "maximum bytes exceeded"
    await client.close()


async def make_room(park: Machine) -> None:
    """Take out what fills the stream."""
    client = await nats.connect(park.servers.nats_url)
    await client.jetstream(timeout=30).purge_stream(STREAM, subject=FILLER)
    await client.close()


async def waiting(park: Machine, service: str) -> tuple[float, float]:
    """The depth and the age of an outbox, as the service's metrics show them."""
    seen = await park.metrics(service)
    return seen.value("outbox_unsent"), seen.value("outbox_oldest_seconds")


async def test_a_full_stream_keeps_events_in_the_outbox_until_there_is_room(park: Machine) -> None:
    user = unique_id()
    await fill(park)
    async with park.service("shifts") as client:
        answer = await log(client, user)
        assert answer and answer.status_code == 200

        async def is_shown() -> bool:
            depth, age = await waiting(park, "shifts")
            return depth == 1 and age > 1

        await wait_until(is_shown)
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            200,
            {"status": "ready", "mongodb": "up", "nats": "up"},
        )
    await wait_until(lambda: "maximum bytes exceeded" in park.log("shifts"))
    assert await count(park, user) == [STORED]
    await make_room(park)
    await wait_until(lambda: is_counted(park, user))

    async def is_empty() -> bool:
        return await waiting(park, "shifts") == (0, 0)

    await wait_until(is_empty)
    assert await buried(park, user) == []


async def test_nats_that_comes_back_empty_gets_what_waited_and_changes_nothing_else(park: Machine) -> None:
    earlier, later, last = unique_id(), unique_id(), unique_id()
    async with park.service("shifts") as client:
        await log(client, earlier)
        await wait_until(lambda: is_counted(park, earlier))
        await park.kill("nats-server")
        answer = await log(client, later)
        assert answer and answer.status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        shutil.rmtree(park.folder / "nats" / "data")
        await park.start("nats-server")
        await wait_until(lambda: is_counted(park, later), seconds=60)
        await log(client, last)
        await wait_until(lambda: is_counted(park, last))
    assert await count(park, earlier, later, last) == [ONCE] * 3
    assert await buried(park, earlier, later, last) == []


async def test_what_is_deleted_in_nats_under_running_services_comes_back_and_counts_each_shift_once(
    park: Machine,
) -> None:
    earlier, later, last = unique_id(), unique_id(), unique_id()
    logged = {name: len(park.log(name)) for name in ("accounts", "shifts")}
    client = await nats.connect(park.servers.nats_url)
    stream = client.jetstream(timeout=30)
    async with park.service("shifts") as shifts:
        await log(shifts, earlier)
        await wait_until(lambda: is_counted(park, earlier))
        await stream.delete_consumer(STREAM, "accounts")
        await log(shifts, later)
        await wait_until(lambda: is_counted(park, later), seconds=60)
        await stream.delete_stream(STREAM)
        await log(shifts, last)
        await wait_until(lambda: is_counted(park, last), seconds=60)
    await client.close()
    assert await count(park, earlier, later, last) == [ONCE] * 3
    assert await buried(park, earlier, later, last) == []
    for name, length in logged.items():
        assert "a background task failed" not in park.log(name)[length:]
