"""What there is once for the whole run, a real mongod and nats-server, and Callboard in containers; and a clock."""

import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer

from callboard.replica_set import prepare_mongod
from callboard.servers import Server, listens, mongod, nats_server
from tests.containers.engine import has_engine
from tests.containers.park import ContainerPark, StartPark, container_park
from tests.support import Servers, wait_until
from tests.support.clock import Clock
from tests.support.keeper import tidy_up_after_this_process
from tests.support.scheduling import ByFileAndForm

# A run that is told to stop (by a time limit, say) also stops its servers.
signal.signal(signal.SIGTERM, signal.default_int_handler)

# The examples are the same each time, and none has to be quick: on a busy machine it may not be.
settings.load_profile("ci")


def pytest_configure() -> None:
    """Leave nothing behind, however this run ends; the workers of pytest-xdist do so each for itself."""
    tidy_up_after_this_process()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a run can be asked for besides what pytest knows."""
    parser.addoption(
        "--backend",
        choices=("processes", "containers"),
        default="processes",
        help="where the MongoDB and the NATS of the tests run that start none of their own",
    )
    parser.addoption(
        "--form",
        action="append",
        choices=("one-process", "processes", "compose", "replicas"),
        help="a form of the park to hold the contract against, repeatable; without it, those without containers",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFileAndForm:
    """How the tests are spread where several processes run them: `make test`."""
    return ByFileAndForm(config, log)


@pytest.fixture(scope="session")
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[Servers]:
    """The servers, with empty databases; stopped and forgotten after the last test."""
    with ExitStack() as stack:
        if request.config.getoption("backend") == "containers":
            # Here, because it looks for a container engine when it is imported.
            from tests.containers.servers import mongo_and_nats

            yield await mongo_and_nats(stack)
            return
        data = Path(tempfile.mkdtemp(prefix="callboard-tests-"))
        stack.callback(shutil.rmtree, data)
        mongo, nats = mongod(data), nats_server(data)
        for server in (mongo, nats):
            stack.callback(_stop, _start(server, data))
        await prepare_mongod(mongo.url)
        await wait_until(lambda: listens(nats.port))
        yield Servers(mongo.url, nats.url, secrets.token_urlsafe(32))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which what fails again and again is tried again."""
    still = Clock()
    monkeypatch.setattr("common.outgoing.breaker.time", still)
    return still


@pytest.fixture(scope="session")
async def compose(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StartPark]:
    """Starts a park in containers when it is called for; skips where there is no container engine."""
    running: dict[int, ContainerPark] = {}
    async with AsyncExitStack() as stack:

        async def start(replicas: int) -> ContainerPark:
            if not has_engine():
                pytest.skip("there is no container engine")
            if replicas not in running:
                running.clear()
                await stack.aclose()
                folder = tmp_path_factory.mktemp("compose")
                running[replicas] = await stack.enter_async_context(container_park(folder, replicas))
            return running[replicas]

        yield start


def _start(server: Server, data: Path) -> subprocess.Popen[bytes]:
    with (data / f"{server.name}.log").open("wb") as log:
        return subprocess.Popen(server.command, stdout=log, stderr=log, process_group=0)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
