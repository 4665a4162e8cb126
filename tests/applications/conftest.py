"""A service for the tests that only ask it questions; and no limit of time that a busy machine reaches."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.applications.builders import Park, park
from tests.support import Servers, patience


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """What is slow is waited for."""
    with patience():
        yield


@pytest.fixture(scope="package")
async def shared_park(servers: Servers) -> AsyncIterator[Park]:
    """One for all of them; whoever looks at what a start or a stop does takes `park` instead."""
    async with park(servers) as here:
        yield here
