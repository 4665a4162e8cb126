"""A machine on which `callboard` is run as an operator runs it."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from callboard.servers import free_port
from tests.support import ROOT, wait_until

CALLBOARD = str(Path(sys.executable).with_name("callboard"))
START_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    status: int
    out: str
    error: str


async def run(*command: str, **variables: str) -> Answer:
    """The answer of a command that comes to an end; `variables` are added to its environment."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(variables), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    out, error = await process.communicate()
    return Answer(process.returncode or 0, out.decode(), error.decode())


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of this run without settings of Callboard's, and with these variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    return {**own, **variables}


@dataclass
class Machine:
    """One data folder, and the `callboard up` that runs in it."""

    data_dir: Path
    port: int = field(default_factory=free_port)
    process: Process | None = None
    family: dict[int, psutil.Process] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What the last `callboard up` has printed so far."""
        return self.data_dir.with_suffix(".txt").read_text("utf-8")

    async def up(self, *options: str, **variables: str) -> None:
        """Start, and return once it has said that it is ready, to the last line."""
        await self.begin(*options, output=None, **variables)
        await wait_until(lambda: "Ctrl-C stops it." in self.output or self.has_ended, START_SECONDS)
        assert "is ready: http" in self.output, self.output
        self.note_family()

    async def begin(self, *options: str, output: int | None = None, **variables: str) -> None:
        """Start, and do not wait; what it says goes to `output`, if that is given."""
        with self.data_dir.with_suffix(".txt").open("wb") as file:
            output = output or file.fileno()
            self.process = await asyncio.create_subprocess_exec(
                *(CALLBOARD, "up", "--data-dir", str(self.data_dir), "--port", str(self.port), *options),
                cwd=ROOT,
                env=environment(variables),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """Whether `callboard up` has ended."""
        return self.process is None or self.process.returncode is not None

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal to the process group, as Ctrl-C does, and answer the exit status."""
        assert self.process is not None
        self.note_family()
        os.killpg(self.process.pid, number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def callboard(self, *arguments: str) -> Answer:
        """Another command on this data folder."""
        return await run(CALLBOARD, *arguments, "--data-dir", str(self.data_dir))

    def listed(self) -> dict[str, dict[str, Any]]:
        """What run.json lists, by name."""
        return {entry["name"]: entry for entry in json.loads((self.data_dir / "run.json").read_text("utf-8"))}

    def keys(self) -> dict[str, str]:
        """The content of keys.env."""
        lines = (self.data_dir / "keys.env").read_text("utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    async def knows(self, key: str) -> bool:
        """Whether the gateway answers a request with this key."""
        try:
            async with httpx.AsyncClient(timeout=30) as client:
                answer = await client.get(f"{self.url}/profile?id=1", headers={"x-api-key": key})
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def note_family(self) -> None:
        """Remember every process that belongs to this machine now."""
        if (self.data_dir / "run.json").exists():
            for entry in self.listed().values():
                try:
                    self.family[entry["pid"]] = psutil.Process(entry["pid"])
                except psutil.NoSuchProcess:
                    continue

    def alive(self) -> list[psutil.Process]:
        """Those of the remembered processes that still run."""
        return [one for one in self.family.values() if _runs(one)]


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # it may end between the two questions
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@asynccontextmanager
async def machine(folder: Path) -> AsyncIterator[Machine]:
    """A machine that is stopped at the end, whatever a test left running."""
    one = Machine(folder / "data")
    try:
        yield one
    finally:
        if not one.has_ended:
            await one.stop()
        one.note_family()
        for process in one.alive():
            process.kill()
