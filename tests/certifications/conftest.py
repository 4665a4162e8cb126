"""A service for the tests that do not look at its start, its stop or its neighbours."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.certifications.builders import Park
from tests.certifications.builders import park as open_park
from tests.support import Servers


@pytest.fixture(scope="package", autouse=True)
def patient_database() -> Iterator[None]:
    """A MongoDB that a busy machine makes slow is waited for: when it is given up is not looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.mongo.TIMEOUT_SECONDS", 20.0)
        yield


@pytest.fixture(scope="package")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """One for all of them."""
    async with open_park(servers) as here:
        yield here
