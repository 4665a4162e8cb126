"""A service for the tests that do not look at its start, its stop or its neighbours."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.certifications.builders import Park
from tests.certifications.builders import park as open_park
from tests.support import Servers, patience


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """A machine that is busy is waited for: when it is given up is not looked at here."""
    with patience():
        yield


@pytest.fixture(scope="package")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """One for all of them."""
    async with open_park(servers) as here:
        yield here
