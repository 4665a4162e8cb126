"""The system that the tests of containers look at; it is started once, and shared with the contract tests."""

import pytest

from tests.containers.engine import Project
from tests.containers.park import ContainerPark, StartPark


@pytest.fixture(scope="session")
async def container_park(compose: StartPark) -> ContainerPark:
    """A park in containers."""
    return await compose(1)


@pytest.fixture(scope="session")
def project(container_park: ContainerPark) -> Project:
    """The containers themselves."""
    return container_park.project
