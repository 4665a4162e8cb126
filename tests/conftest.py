"""One real mongod and one real nats-server for the whole run."""

import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from callboard.replica_set import prepare_mongod
from callboard.servers import Server, listens, mongod, nats_server
from tests.support import Servers, wait_until

# A run that is told to stop (by a time limit, say) also stops its servers.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """The servers, with empty databases; stopped and forgotten after the last test."""
    with ExitStack() as stack:
        data = Path(tempfile.mkdtemp(prefix="callboard-tests-"))
        stack.callback(shutil.rmtree, data)
        mongo, nats = mongod(data), nats_server(data)
        for server in (mongo, nats):
            stack.callback(_stop, _start(server, data))
        await prepare_mongod(mongo.url)
        await wait_until(lambda: listens(nats.port))
        yield Servers(mongo.url, nats.url, secrets.token_urlsafe(32))


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
