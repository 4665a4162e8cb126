"""The parks that the contract is held against; each is started once for the whole run."""

from collections.abc import AsyncIterator

import pytest

from tests.containers.park import StartPark
from tests.contracts.park import MANY_WRONG_KEYS, Park, changed_config, open_park
from tests.standins.discord import discord

FORMS = ("one-process", "processes")
IN_CONTAINERS = {"compose": 1, "replicas": 2}
"""The forms that are run only when asked for: how many there are of each service."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a park in the forms that are asked for, unless its file has a park of its own."""
    if "park" in metafunc.fixturenames and not hasattr(metafunc.module, "park"):
        forms = metafunc.config.getoption("form") or FORMS
        metafunc.parametrize("park", forms, indirect=True, scope="session")


@pytest.fixture(scope="session")
async def park(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, compose: StartPark
) -> AsyncIterator[Park]:
    """The shipped park, in each form. Only the limit on wrong keys is raised: these tests try many.

    In processes, it tells what happens to a Discord where much goes wrong, too: nobody else notices.
    """
    folder = tmp_path_factory.mktemp(request.param)
    async with discord() as standin:
        webhook = standin.webhook()
        standin.faults.at_random(0.3, seed=1)
        if request.param in IN_CONTAINERS:
            running: Park = await compose(IN_CONTAINERS[request.param])
        elif request.param == "processes":
            config = changed_config(folder, {**MANY_WRONG_KEYS, "notify = []": 'notify = ["discord"]'})
            secret = {"CALLBOARD_DISCORD_WEBHOOK": webhook.url}
            running = await open_park(
                folder, "--processes", form=request.param, config=config, variables=secret
            )
            running.secrets.add(webhook.token)
        else:
            config = changed_config(folder, MANY_WRONG_KEYS)
            running = await open_park(folder, form=request.param, config=config)
        try:
            yield running
        finally:
            await running.stop()
