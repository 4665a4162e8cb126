"""A NATS that one test has for itself."""

import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from callboard.servers import Server, listens, nats_server
from tests.support import wait_until


@asynccontextmanager
async def nats_with(folder: Path, changes: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """A NATS of its own that listens, with parts of its configuration replaced."""
    server = nats_server(folder)
    config = folder / "nats" / "nats.conf"
    text = config.read_text("utf-8")
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text, "utf-8")
    process = _start(server, folder)
    try:
        await wait_until(lambda: listens(server.port))
        yield server
    finally:
        process.kill()
        process.wait()


def _start(server: Server, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "nats-server.log").open("ab") as log:
        return subprocess.Popen(server.command, stdout=log, stderr=log, process_group=0)
