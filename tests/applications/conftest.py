"""A service for the tests that only ask it questions."""

from collections.abc import AsyncIterator

import pytest

from tests.applications.builders import Park, park
from tests.support import Servers


@pytest.fixture(scope="package")
async def shared_park(servers: Servers) -> AsyncIterator[Park]:
    """One for all of them; whoever looks at what a start or a stop does takes `park` instead."""
    async with park(servers) as here:
        yield here
