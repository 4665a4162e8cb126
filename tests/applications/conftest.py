"""A service for the tests that only ask it questions; and no limit of time that a busy machine reaches."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from applications import repository, service
from tests.applications.builders import Park, park
from tests.support import Servers

SHIPPED = {
    "applications.repository.LEASE": repository.LEASE,
    "applications.service._MEMBER_SECONDS": service._MEMBER_SECONDS,
    "applications.service._RANK_SECONDS": service._RANK_SECONDS,
    "applications.service._WAIT_SECONDS": service._WAIT_SECONDS,
}


@pytest.fixture(scope="package", autouse=True)
def patient() -> Iterator[None]:
    """What is slow is waited for, and a service looks at its start only for what others left.

    Later, it would find what a test leaves for another, and knows none of that test's people.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.mongo.TIMEOUT_SECONDS", 20.0)
        patch.setattr("common.idempotency._WAIT_SECONDS", 60.0)
        patch.setattr("applications.service._FINISH_EVERY_SECONDS", 86_400.0)
        for name in SHIPPED:
            patch.setattr(name, timedelta(seconds=60) if name.endswith("LEASE") else 60.0)
        yield


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits that approvals have."""
    for name, value in SHIPPED.items():
        monkeypatch.setattr(name, value)


@pytest.fixture(scope="package")
async def shared_park(servers: Servers) -> AsyncIterator[Park]:
    """One for all of them; whoever looks at what a start or a stop does takes `park` instead."""
    async with park(servers) as here:
        yield here
