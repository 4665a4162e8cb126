"""The consumer of `shift_logged` at work, alone: `python -m bench.consumer fill|accounts|nothing|empty EVENTS`.

`fill` puts events into the stream. `accounts` lets the consumer of accounts work them off, ledger and totals,
in a database of its own; `nothing` lets the same consumer take and acknowledge them, without a database.
`empty` takes them out of the stream.
Settings come from the environment, as a service's do; the answer is a line of JSON.
"""

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import nats
import psutil
import uvloop
from nats.js.errors import NotFoundError

from accounts.main import open_service
from accounts.repository import COLLECTIONS
from common.background import background
from common.bus import Bus
from common.consumer import Consumer
from common.events import ShiftLogged, new_id
from common.group import load_group
from common.messaging.handling import Handled, Outcome
from common.mongo import connect, migrate
from common.outbox import Outbox
from common.service import Chassis
from common.settings import Settings, read_settings
from common.stream import STREAM

NAME = "bench_consumer"
PEOPLE = 5_000
_IN_FLIGHT = 256


async def fill(settings: Settings, events: int) -> None:
    """Let the stream hold that many events of many people, and nothing else."""
    async with _stream(settings) as stream, _bus(settings) as bus:
        await stream.purge_stream(STREAM)
        for start in range(0, events, _IN_FLIGHT):
            batch = [_event() for _ in range(min(_IN_FLIGHT, events - start))]
            await asyncio.gather(
                *(bus.publish(event.id, event.SUBJECT, event.model_dump_json().encode()) for event in batch)
            )


async def consume(settings: Settings, events: int, *, with_database: bool) -> dict[str, Any]:
    """Work off the stream from its start; answers seconds, and megabytes held as it goes on (RSS)."""
    async with AsyncExitStack() as stack:
        client, database = connect(settings, NAME)
        await stack.enter_async_context(client)
        await client.drop_database(NAME)
        await migrate(database, COLLECTIONS)
        chassis = Chassis(
            settings, load_group(settings.config), database, Outbox(database), apps={}, stack=stack
        )
        service = await stack.enter_async_context(open_service(chassis))
        memory: list[float] = []
        handled, began, ended = 0, 0.0, 0.0
        is_done = asyncio.Event()

        async def handle(_: object, shifts: Sequence[ShiftLogged]) -> Sequence[Outcome]:
            nonlocal handled, began, ended
            began = began or time.perf_counter()
            outcomes: Sequence[Outcome] = [Handled.DONE] * len(shifts)
            if with_database:
                outcomes = await service.record_shifts(shifts)
            handled += len(shifts)
            if handled >= (len(memory) + 1) * events // 20:
                memory.append(psutil.Process().memory_info().rss / 1e6)
            if handled >= events:
                ended = time.perf_counter()
                is_done.set()
            return outcomes

        jetstream = await stack.enter_async_context(_stream(settings))
        with suppress(NotFoundError):  # unless an interrupted run left it
            await jetstream.delete_consumer(STREAM, NAME)
        bus = await stack.enter_async_context(_bus(settings))
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # as a service does
        consumer = Consumer(bus, NAME, database, {ShiftLogged: handle}, service, settings.consumer)
        async with background(consumer.run):
            await is_done.wait()
        await jetstream.delete_consumer(STREAM, NAME)
        await client.drop_database(NAME)
    return {"seconds": ended - began, "memory": memory}


def _event() -> ShiftLogged:
    now = int(time.time())
    return ShiftLogged(
        id=new_id(),
        occurred_at=datetime.now(UTC),
        user=1 + random.randrange(PEOPLE),  # noqa: S311 - no secret
        place=1001,
        server="server-1",
        training=False,
        started_at=now - 600,
        ended_at=now,
        duration=600,
        credited_seconds=600,
        points=10,
        logged_by="bench",
    )


@asynccontextmanager
async def _bus(settings: Settings) -> AsyncIterator[Bus]:
    bus = Bus(settings, NAME)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        await stack.enter_async_context(background(bus.run))
        while not bus.is_connected:  # noqa: ASYNC110 - the bus has no event for it
            await asyncio.sleep(0.01)
        yield bus


@asynccontextmanager
async def _stream(settings: Settings) -> AsyncIterator[nats.js.JetStreamContext]:
    connection = await nats.connect(settings.nats_url.get_secret_value())
    yield connection.jetstream(timeout=30)
    await connection.close()


async def main(what: str, events: int) -> None:
    """Do one of the four, and tell."""
    settings = read_settings(Settings)
    if what in ("fill", "empty"):
        await fill(settings, events if what == "fill" else 0)
        print(json.dumps({"events": events}))  # noqa: T201 - the answer
    else:
        told = await consume(settings, events, with_database=what == "accounts")
        print(json.dumps(told))  # noqa: T201 - the answer


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
