"""One machine for this folder: services whose handlers can be given a bug, and a small stream."""

from collections.abc import AsyncIterator

import pytest

from tests.support.machine import PATIENT, QUICK_ACK_WAIT, Change, Machine, machine

A_BUG = "a bug in the handler of shifts"
SMALL = 1 << 20
SERVICES = ("accounts", "certifications", "shifts")


@pytest.fixture(scope="package")
async def park() -> AsyncIterator[Machine]:
    """Accounts, certifications and shifts; what fails is tried again soon."""
    changes = (
        QUICK_ACK_WAIT,
        *PATIENT,
        Change("common.messaging.limits:ConsumerLimits.longest_pause_seconds", "set", 0.2),
        Change("common.messaging.limits:ConsumerLimits.longest_put_off_seconds", "set", 0.2),
        Change("common.messaging.limits:BusLimits.relay_longest_pause_seconds", "set", 0.2),
        Change("accounts.service:AccountsService.record_shifts", "raise", name=A_BUG),
    )
    async with machine(changes=changes, stream_max_bytes=str(SMALL)) as one:
        await one.start(*SERVICES)
        yield one
