"""One machine for this folder, on which a test can make a service die between two steps."""

from collections.abc import AsyncIterator

import nats
import pytest

from common.stream import STREAM
from tests.crashes.points import CRASH_POINTS
from tests.support.machine import PATIENCE, QUICK_ACK_WAIT, SERVICES, Machine, machine


@pytest.fixture(scope="package")
async def park() -> AsyncIterator[Machine]:
    """The four services; a second copy of an event is not known."""
    # Only at its start does applications finish what others left: later, it would come before the next request.
    once = '{"finish_every_seconds": 86400}'
    async with machine(changes=CRASH_POINTS, patience=PATIENCE, bus=QUICK_ACK_WAIT, applications=once) as one:
        await one.start(*SERVICES)
        await forget_copies(one)
        yield one


async def forget_copies(one: Machine) -> None:
    """Let NATS take an event that it has already for a new one, as it does 2 minutes after the first copy."""
    client = await nats.connect(one.servers.nats_url)
    stream = client.jetstream(timeout=30)
    config = (await stream.stream_info(STREAM)).config
    config.duplicate_window = 0.1
    await stream.update_stream(config)
    await client.close()
