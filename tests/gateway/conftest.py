"""A gateway in front of echoes, for the tests that need nothing else."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.builders import changed_config, echoes, make_key, open_gateway, served_gateway
from tests.gateway.raw import Gate
from tests.support import Servers


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """The product's own time limits are not reached by a machine that pauses; who tests one sets it anew."""
    with pytest.MonkeyPatch.context() as patch:
        for limit in (
            "gateway.docs._SECONDS_TO_DESCRIBE",
            "gateway.status._SECONDS_TO_ANSWER",
        ):
            patch.setattr(limit, 30.0)
        patch.setenv("CALLBOARD_PATIENCE", "10")
        yield


@pytest.fixture(scope="package")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configuration, with a high limit on wrong keys."""
    change = {'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "60000/min"'}
    return changed_config(tmp_path_factory.mktemp("gateway"), change)


@pytest.fixture(scope="package")
async def client(servers: Servers, config: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Calls a gateway with an echo in place of each service."""
    async with open_gateway(servers, echoes(), config=config) as opened:
        yield opened


@pytest.fixture(scope="package")
async def _gate(servers: Servers, config: Path) -> AsyncIterator[Gate]:
    apps = echoes()
    async with served_gateway(servers, apps, config=config) as url:
        yield Gate(url, await make_key(servers), apps)


@pytest.fixture
def gate(_gate: Gate) -> Gate:
    """A gateway behind a port, in front of echoes that nothing has reached yet."""
    _gate.forget()
    return _gate


@pytest.fixture(scope="package")
async def keys(servers: Servers) -> dict[str, str]:
    """A key of each scope."""
    return {
        "roblox": await make_key(servers, "roblox"),
        "discord": await make_key(servers, "discord"),
        "operator": await make_key(servers, "operator"),
    }
