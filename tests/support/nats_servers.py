"""A NATS that one test has for itself."""

import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from callboard.servers import Server, listens, nats_server
from tests.support import wait_until


@dataclass(frozen=True)
class OwnServer:
    """A nats-server that runs."""

    url: str
    _config: Path
    _text: str
    _process: subprocess.Popen[bytes]

    def reload(self, changes: Mapping[str, str] | None = None) -> None:
        """Let it read its configuration again, with parts of what it began with replaced."""
        self._config.write_text(_changed(self._text, changes), "utf-8")
        self._process.send_signal(signal.SIGHUP)


@asynccontextmanager
async def nats_with(folder: Path, changes: Mapping[str, str] | None = None) -> AsyncIterator[OwnServer]:
    """A NATS of its own that listens, with parts of its configuration replaced."""
    server = nats_server(folder)
    config = folder / "nats" / "nats.conf"
    text = _changed(config.read_text("utf-8"), changes)
    config.write_text(text, "utf-8")
    process = _start(server, folder)
    try:
        await wait_until(lambda: listens(server.port))
        yield OwnServer(server.url, config, text, process)
    finally:
        process.kill()
        process.wait()


def _changed(text: str, changes: Mapping[str, str] | None) -> str:
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    return text


def _start(server: Server, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "nats-server.log").open("ab") as log:
        return subprocess.Popen(server.command, stdout=log, stderr=log, process_group=0)
