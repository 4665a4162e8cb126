"""One machine in each form for this folder, whose traces can be seen."""

from collections.abc import AsyncIterator

import pytest

from tests.support.machine import Change
from tests.tracing.collector import Traced, traced

BUGS = (
    Change("shifts.service:Shifts.log", "raise", name="log"),
    Change("accounts.service:AccountsService.record_shifts", "raise", name="record"),
)


@pytest.fixture(scope="package", params=["one process", "processes"])
async def park(request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    """Everything runs; a test leaves it so."""
    async with traced(request.param, changes=BUGS) as opened:
        yield opened
