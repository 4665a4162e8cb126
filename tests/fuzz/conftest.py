"""A whole Callboard of its own to be fuzzed, every part a process."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.builders import changed_config
from tests.support.machine import PATIENCE, SERVICES, Machine, machine


@pytest.fixture(scope="package")
async def park(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Machine]:
    """The shipped park. Only the limit on wrong keys is raised, as these tests try many, and those of time."""
    change = {'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "60000/min"'}
    config = changed_config(tmp_path_factory.mktemp("fuzz"), change)
    async with machine(patience=PATIENCE, config=str(config)) as one:
        await one.start(*SERVICES, "gateway")
        yield one


def url_of(park: Machine, name: str) -> str:
    """Where a part of the park listens."""
    return f"http://127.0.0.1:{park.components[name].port}"
