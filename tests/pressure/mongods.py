"""MongoDB servers of a test's own, where the one of `callboard up` will not do."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from pymongo import AsyncMongoClient

from callboard.replica_set import prepare_mongod
from callboard.servers import free_port, listens, mongod
from common.mongo import Document
from tests.support import wait_until


@asynccontextmanager
async def three_members() -> AsyncIterator[tuple[str, dict[int, subprocess.Popen[bytes]]]]:
    """A replica set of three, which elects within a second or two: its URL, and its processes by port."""
    name = "three"
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="callboard-members-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        binary = mongod(folder).command[0]
        ports = [free_port() for _ in range(3)]
        processes: dict[int, subprocess.Popen[bytes]] = {}
        for port in ports:
            data = folder / str(port)
            data.mkdir()
            command = [binary, "--replSet", name, "--port", str(port), "--dbpath", str(data)]
            command += ["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"]
            with (folder / f"{port}.log").open("wb") as log:
                processes[port] = _start(command, log)
            stack.push_async_callback(asyncio.to_thread, processes[port].wait, 30)
            stack.callback(processes[port].kill)
        for port in ports:
            await wait_until(partial(listens, port), seconds=60)
        members = [{"_id": number, "host": f"127.0.0.1:{port}"} for number, port in enumerate(ports)]
        config = {"_id": name, "members": members, "settings": {"electionTimeoutMillis": 1000}}
        one: AsyncMongoClient[Document] = AsyncMongoClient("127.0.0.1", ports[0], directConnection=True)
        async with one:
            await one.admin.command("replSetInitiate", config)

            async def has_elected() -> bool:
                return bool((await one.admin.command("hello")).get("primary"))

            await wait_until(has_elected, seconds=60)
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield f"mongodb://{addresses}/?replicaSet={name}", processes


def _start(command: Sequence[str], output: BinaryIO | int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A folder on a disk of its own; skips the test, with the reason, where none can be had."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a full disk is not tested: only root can mount a small one")
    folder = Path(tempfile.mkdtemp(prefix="callboard-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"a full disk is not tested: {mounted.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - wherever it is
    finally:
        folder.rmdir()


class OneMember:
    """A mongod in this folder, which writes what it has to its disk every second, not every minute."""

    def __init__(self, folder: Path) -> None:
        self._server = mongod(folder)
        self.url = self._server.url
        self._process: subprocess.Popen[bytes] | None = None
        config = folder / "mongod" / "mongod.yaml"
        text = config.read_text("utf-8")
        assert "storage: {" in text
        config.write_text(text.replace("storage: {", "storage: { syncPeriodSecs: 1,"), "utf-8")

    async def start(self) -> None:
        """Start it, and return once it is a primary."""
        self._process = _start(self._server.command, subprocess.DEVNULL)
        await prepare_mongod(self.url)

    def has_died(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    async def kill(self) -> None:
        """End it, if it runs."""
        if self._process:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
