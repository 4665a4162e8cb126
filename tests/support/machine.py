"""One machine's Callboard as `callboard up --processes` lays it out, each process started by the test itself."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from accounts.models import LocalPerson
from accounts.people import import_people
from callboard.components import Options, plan
from callboard.prepare import prepare
from callboard.servers import free_port, listens
from callboard.supervisor import Component
from common.group import load_group
from common.mongo import Document, connect, is_outage
from common.outgoing.headers import TOKEN_HEADER
from common.outgoing.limits import OutgoingLimits
from common.settings import Settings
from tests.support import ROOT, Servers, settings, unique_id, wait_until

SERVERS = ("mongod", "nats-server")
SERVICES = ("accounts", "certifications", "applications", "shifts")
"""Those that answer requests."""

START_SECONDS = 60.0
"""A limit that a busy machine does not reach."""

_CHANGES = Path(__file__).with_name("changes")


@dataclass(frozen=True)
class Change:
    """A change to a coroutine function in the processes of one machine: `target` is "module:name".

    Once a test arms it, by `name`, the process dies at its next call, or each call raises until disarmed; the first
    `skip` calls pass.
    """

    target: str
    do: Literal["die before", "die after", "raise"]
    name: str
    skip: int = 0


QUICK_ACK_WAIT = '{"ack_wait_seconds": 1}'
"""For `machine(bus=...)`: what a consumer does not acknowledge comes again after a second, not 30."""

PATIENCE = "10"
"""For `machine(patience=...)`: a request takes as long as it does on a busy machine, and is not answered 503."""

PATIENT_CALLERS = '{"silent_seconds": 3, "probe_seconds": 5, "probe_lifetime": 10}'
"""A replica is not taken for silent on a machine that is busy."""


@dataclass
class Machine:
    """The processes by the names that `callboard up` gives them, and the ways to reach them."""

    folder: Path
    components: dict[str, Component]
    servers: Servers
    keys: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    async def start(self, *names: str) -> None:
        """Start these, and return once they are ready."""
        for name in names:
            self.launch(name)
        for name in names:
            await wait_until(partial(self.is_ready, name), START_SECONDS)

    def launch(self, name: str) -> None:
        """Start one without waiting for it."""
        component = self.components[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                component.command, env=component.env, stdout=log, stderr=log, start_new_session=True
            )

    async def is_ready(self, name: str) -> bool:
        """Whether this one answers as `callboard up` wants it to. Fails when it has ended."""
        component = self.components[name]
        assert self.processes[name].poll() is None, self.log(name)
        if component.health_url is None:
            return listens(component.port or 0)
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            with suppress(httpx.HTTPError):
                return (await client.get(component.health_url)).status_code == 200
        return False

    async def stop(self, *names: str) -> None:
        """SIGTERM to all of them, and wait until they are gone."""
        for name in names:
            self.signal(name, signal.SIGCONT, signal.SIGTERM)
        for name in names:
            await self.wait(name)

    async def kill(self, *names: str) -> None:
        """SIGKILL to all of them, and wait until they are gone."""
        for name in names:
            self.signal(name, signal.SIGKILL)
            await self.wait(name)

    def freeze(self, *names: str) -> None:
        """Stop these from running; their connections stay open."""
        for name in names:
            self.signal(name, signal.SIGSTOP)

    def thaw(self, *names: str) -> None:
        """Let frozen ones run on."""
        for name in names:
            self.signal(name, signal.SIGCONT)

    def signal(self, name: str, *signals: signal.Signals) -> None:
        """Send signals to a process, if it runs."""
        for one in signals:
            if self.processes[name].poll() is None:
                os.killpg(self.processes[name].pid, one)

    async def wait(self, name: str, seconds: float = 60) -> int:
        """Wait for the end of a process; its exit code. Raises subprocess.TimeoutExpired."""
        return await asyncio.to_thread(self.processes[name].wait, seconds)

    def arm(self, service: str, name: str) -> None:
        """Let the change of this name strike in this service."""
        (self.folder / f"{service}: {name}").touch()

    def disarm(self, service: str, name: str) -> None:
        """Let it strike no more."""
        (self.folder / f"{service}: {name}").unlink()

    def log(self, name: str) -> str:
        """What the process has written."""
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def client(self, key: str) -> httpx.AsyncClient:
        """A client of the gateway with a key of this scope, and from place 1001. Close it when done."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._gateway.port}",
            headers={"x-api-key": self.keys[key], "Roblox-Id": "1001"},
            trust_env=False,
            timeout=30,
            # Those that are idle are closed before the gateway closes them, perhaps just as they are used.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=OutgoingLimits().idle_seconds),
        )

    @property
    def _gateway(self) -> Component:
        return self.components.get("gateway") or self.components["callboard"]

    def service(self, name: str) -> httpx.AsyncClient:
        """A client of a service, past the gateway. Close it when done."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.components[name].port}",
            headers={TOKEN_HEADER: self.servers.internal_token},
            trust_env=False,
            timeout=30,
        )

    async def metrics(self, name: str) -> "Metrics":
        """What a service counts, from its /metrics."""
        async with self.service(name) as client:
            return Metrics((await client.get("/metrics")).text)

    def mongodb(self) -> AsyncMongoClient[Document]:
        """The databases. Close it when done."""
        return AsyncMongoClient(self.servers.mongo_url, tz_aware=True, timeoutMS=20_000)

    async def person(self, rank: str = "Cast Member") -> LocalPerson:
        """A new person, imported as an operator would."""
        return (await self.people(1, rank))[0]

    async def people(self, number: int, rank: str) -> list[LocalPerson]:
        """New people of one rank."""
        users = [unique_id() for _ in range(number)]
        people = [LocalPerson(id=user, username=f"Person_{user}", rank=rank) for user in users]
        client, database = connect(self.settings(), "accounts")

        async def are_imported() -> bool:
            try:
                await import_people(database, load_group(ROOT / "callboard.toml"), people)
            except PyMongoError as error:
                if not is_outage(error):
                    raise
                return False
            return True

        async with client:
            await wait_until(are_imported, START_SECONDS)
        return people

    def settings(self) -> Settings:
        """The settings of the chassis on this machine."""
        return settings(Settings, self.servers)


class Metrics:
    """The samples of one reading."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str) -> float:
        """The sum of all samples of this name, without its prefix and `_total`."""
        wanted = (f"callboard_{name}", f"callboard_{name}_total")
        return sum(sample.value for sample in self._samples if sample.name in wanted)


@asynccontextmanager
async def machine(
    *,
    replicas: Mapping[str, int] | None = None,
    changes: Sequence[Change] = (),
    mongo_url: str | None = None,
    is_one_process: bool = False,
    **environment: str,
) -> AsyncIterator[Machine]:
    """A machine with empty databases, its mongod and nats-server running; all is stopped in the end.

    `mongo_url` is that of a running one to be used instead. `environment` is given to all processes, without
    its prefix and in lower case.
    """
    folder = Path(tempfile.mkdtemp(prefix="callboard-machine-"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        options = Options(
            folder,
            ROOT / "callboard.toml",
            "127.0.0.1",
            free_port(),
            processes=not is_one_process,
            replicas=replicas or {},
            mongo_url=mongo_url,
        )
        given = {"outgoing": PATIENT_CALLERS, **environment}
        env = {f"CALLBOARD_{name.upper()}": value for name, value in given.items()} | {
            "CALLBOARD_TEST_CHANGES": json.dumps([asdict(change) for change in changes]),
            "CALLBOARD_TEST_FOLDER": str(folder),
            "PYTHONPATH": str(_CHANGES),
        }
        components = {
            component.name: replace(component, env={**component.env, **env})
            for stage in plan(options, folder)
            for component in stage
        }
        secrets = folder / "secrets"
        one = Machine(
            folder,
            components,
            Servers(
                (secrets / "callboard_mongo_url").read_text("utf-8"),
                (secrets / "callboard_nats_url").read_text("utf-8"),
                (secrets / "callboard_internal_token").read_text("utf-8"),
            ),
        )
        stack.push_async_callback(_stop_all, one)
        await one.start(*(name for name in SERVERS if name in components))
        await prepare(one.settings(), folder)
        for line in (folder / "keys.env").read_text("utf-8").splitlines():
            name, _, key = line.partition("=")
            one.keys[name.removesuffix("_KEY").lower()] = key
        yield one


async def _stop_all(one: Machine) -> None:
    servers = [name for name in SERVERS if name in one.processes]
    await one.kill(*(name for name in one.processes if name not in servers))
    await one.stop(*servers)
