"""One machine for this folder, with two replicas of each service behind the gateway."""

from collections.abc import AsyncIterator

import pytest

from tests.support.machine import SERVICES, Machine, machine

REPLICAS = [f"{service}-{number}" for service in SERVICES for number in (1, 2)]


@pytest.fixture(scope="package")
async def park() -> AsyncIterator[Machine]:
    """Everything runs; a test leaves it so."""
    async with machine(replicas=dict.fromkeys(SERVICES, 2)) as one:
        await one.start(*REPLICAS, "gateway")
        yield one
