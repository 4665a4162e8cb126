"""The parks that the contract is held against; each is started once for the whole run."""

from collections.abc import AsyncIterator

import pytest

from tests.contracts.park import Park, changed_config, open_park

FORMS = {"one-process": (), "processes": ("--processes",)}


@pytest.fixture(scope="session", params=FORMS)
async def park(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Park]:
    """The shipped park, in both forms. Only the limit on wrong keys is raised: these tests try many."""
    folder = tmp_path_factory.mktemp(request.param)
    config = changed_config(
        folder, {'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "60000/min"'}
    )
    running = await open_park(folder, *FORMS[request.param], form=request.param, config=config)
    try:
        yield running
    finally:
        await running.stop()
