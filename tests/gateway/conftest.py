"""A gateway in front of echoes, for the tests that need nothing else."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.gateway.builders import changed_config, echoes, make_key, open_gateway
from tests.support import Servers


@pytest.fixture(scope="package")
async def client(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """Calls a gateway with an echo in place of each service, and a high limit on wrong keys."""
    change = {'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "60000/min"'}
    config = changed_config(tmp_path_factory.mktemp("gateway"), change)
    async with open_gateway(servers, echoes(), config=config) as opened:
        yield opened


@pytest.fixture(scope="package")
async def keys(servers: Servers) -> dict[str, str]:
    """A key of each scope."""
    return {
        "roblox": await make_key(servers, "roblox"),
        "discord": await make_key(servers, "discord"),
        "operator": await make_key(servers, "operator"),
    }
