"""One machine for this folder: services whose handlers can be given a bug, and a small stream."""

from collections.abc import AsyncIterator

import pytest

from tests.support.machine import PATIENCE, Change, Machine, machine

A_BUG = "a bug in the handler of shifts"
SMALL = 1 << 20
SERVICES = ("accounts", "certifications", "shifts")


@pytest.fixture(scope="package")
async def park() -> AsyncIterator[Machine]:
    """Accounts, certifications and shifts; what fails is tried again soon."""
    bug = Change("accounts.service:AccountsService.record_shifts", "raise", name=A_BUG)
    async with machine(
        changes=[bug],
        patience=PATIENCE,
        bus='{"ack_wait_seconds": 1, "relay_longest_pause_seconds": 0.2}',
        consumer='{"longest_pause_seconds": 0.2, "longest_put_off_seconds": 0.2}',
        stream_max_bytes=str(SMALL),
    ) as one:
        await one.start(*SERVICES)
        yield one
