"""A service for the tests that do not look at its start, its stop or its neighbours."""

from collections.abc import AsyncIterator

import pytest

from tests.certifications.builders import Park
from tests.certifications.builders import park as open_park
from tests.support import Servers


@pytest.fixture(scope="package")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """One for all of them."""
    async with open_park(servers) as here:
        yield here
