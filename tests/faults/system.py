"""A whole Callboard in processes of its own, its servers behind wires, for a test to break."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import psutil

from callboard.replica_set import prepare_mongod
from callboard.servers import Server, free_port, listens, mongod, nats_server
from callboard.system import Process, read_run_file
from tests.faults.clients import Park, Person
from tests.faults.wire import Wire
from tests.support import ROOT, unique_id, wait_until

Form = Literal["processes", "one process"]

CALLBOARD = Path(sys.executable).with_name("callboard")
SABOTAGE = Path(__file__).with_name("sabotage")
REPLICATED = ("accounts", "certifications", "applications", "shifts")
TO_MONGOD, TO_NATS, TO_GATEWAY = OUTER_WIRES = (
    "wire to mongod",
    "wire to nats-server",
    "wire to the gateway",
)
START_SECONDS = 120.0


def replicas(service: str) -> list[str]:
    """The replicas of a service, as `callboard up` names them."""
    return [f"{service}-{number}" for number in (1, 2)]


REPLICAS = [name for service in REPLICATED for name in replicas(service)]


def hop(replica: str) -> str:
    """The wire on which the gateway and other services call this replica."""
    return f"wire to {replica}"


@dataclass
class System:
    """What runs: mongod and nats-server of the test's own, `callboard up`, and the wires between them."""

    folder: Path
    form: Form
    servers: dict[str, Server]
    wires: dict[str, Wire]
    hops: dict[str, Wire]
    """By replica: on the way to it from the gateway and from other services."""
    port: int
    metrics_port: int
    park: Park
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    up: asyncio.subprocess.Process | None = None

    @property
    def data_dir(self) -> Path:
        """The data folder of `callboard up`."""
        return self.folder / "data"

    @property
    def components(self) -> list[str]:
        """What can be killed, by name."""
        if self.form == "one process":
            return ["callboard", *self.servers]
        return ["gateway", *REPLICAS, *self.servers]

    def processes(self) -> list[Process]:
        """What `run.json` lists; nothing while it is not there."""
        return [one for one in read_run_file(self.data_dir) if one.name in self.components]

    def find(self, component: str) -> psutil.Process | None:
        """The process of a component, if it runs now."""
        if component in self.servers:
            server = self.running[component]
            return psutil.Process(server.pid) if server.poll() is None else None
        found = next((one for one in self.processes() if one.name == component), None)
        return found.find() if found else None

    def start_server(self, name: str) -> None:
        """Start mongod or nats-server on the port and the data of before."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.servers[name].command, stdout=log, stderr=log, start_new_session=True
            )

    def metrics_urls(self) -> dict[tuple[str, int], str]:
        """Where each process tells its metrics, by name and pid."""
        ports = {"callboard": self.metrics_port, "gateway": self.metrics_port}
        return {
            (one.name, one.pid): f"http://127.0.0.1:{ports.get(one.name, one.port)}/metrics"
            for one in self.processes()
        }

    async def is_up(self, component: str) -> bool:
        """Whether this component runs and says that it is ready; a server, whether it listens."""
        if component in self.servers:
            return self.find(component) is not None and listens(self.servers[component].port)
        found = next((one for one in self.processes() if one.name == component), None)
        if found is None:
            return False
        async with httpx.AsyncClient(trust_env=False, timeout=3) as client:
            with suppress(httpx.HTTPError):
                port = found.port if self.form == "processes" else self.port
                return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        return False

    async def is_ready(self) -> bool:
        """Whether everything is up and says so."""
        if {one.name for one in self.processes()} != set(self.components) - set(self.servers):
            return False
        ports = [self.port] if self.form == "one process" else [one.port for one in self.processes()]
        async with httpx.AsyncClient(trust_env=False, timeout=3) as client:
            with suppress(httpx.HTTPError):
                answers = await asyncio.gather(
                    *(client.get(f"http://127.0.0.1:{port}/readyz") for port in ports)
                )
                return all(
                    answer.status_code == 200 and answer.json().get("nats", "up") == "up"
                    for answer in answers
                )
        return False


@asynccontextmanager
async def running_system(folder: Path, form: Form, patches: Sequence[str] = ()) -> AsyncIterator[System]:
    """Start everything in an empty folder, and stop it all; `patches` are functions of `sabotage`."""
    async with AsyncExitStack() as stack:
        servers = {server.name: server for server in (mongod(folder), nats_server(folder))}
        port = free_port()
        wires = {
            TO_MONGOD: Wire(servers["mongod"].port),
            TO_NATS: Wire(servers["nats-server"].port),
            TO_GATEWAY: Wire(port),
        }
        hops = {name: Wire() for name in REPLICAS} if form == "processes" else {}
        wires |= {hop(name): wire for name, wire in hops.items()}
        for wire in wires.values():
            await wire.open()
            stack.push_async_callback(wire.close)
        url = f"http://127.0.0.1:{wires[TO_GATEWAY].port}"
        system = System(folder, form, servers, wires, hops, port, free_port(), _park(url))
        for name in servers:
            system.start_server(name)
            stack.push_async_callback(_stop_server, system, name)
        await prepare_mongod(servers["mongod"].url)
        await wait_until(lambda: listens(servers["nats-server"].port))
        await _start_callboard(system, patches)
        stack.push_async_callback(_stop_callboard, system)
        await wait_until(system.is_ready, START_SECONDS)
        for process in system.processes():
            if process.name in hops:
                hops[process.name].target_port = process.port
        _read_keys(system)
        yield system


def _park(url: str) -> Park:
    people = [Person(number, f"Worker_{number}") for number in (unique_id() for _ in range(24))]
    guests = [Person(number, f"Guest_{number}") for number in (unique_id() for _ in range(24))]
    return Park(url, {}, people[:6], people[6:12], people[12:], guests)


async def _start_callboard(system: System, patches: Sequence[str]) -> None:
    options = ["--data-dir", str(system.data_dir), "--port", str(system.port)]
    options += ["--config", str(_write_config(system))]
    if system.form == "processes":
        options.append("--processes")
        for service in REPLICATED:
            options += ["--replicas", f"{service}=2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    environment |= {
        # Connected directly, the driver does not look for the server's own address, past the wire.
        "CALLBOARD_MONGO_URL": _through(system, "mongod", TO_MONGOD) + "/?directConnection=true",
        "CALLBOARD_NATS_URL": _through(system, "nats-server", TO_NATS),
        "CALLBOARD_METRICS_PORT": str(system.metrics_port),
        "CALLBOARD_FAULTS_PATCHES": " ".join(patches),
        "CALLBOARD_FAULTS_WIRES": json.dumps({name: wire.port for name, wire in system.hops.items()}),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(SABOTAGE), os.environ.get("PYTHONPATH")))),
    }
    with (system.folder / "up.txt").open("wb") as output:
        system.up = await asyncio.create_subprocess_exec(
            CALLBOARD, "up", *options, cwd=ROOT, env=environment, stdout=output, stderr=output
        )


def _through(system: System, server: str, wire: str) -> str:
    parts = urlsplit(system.servers[server].url)
    return f"{parts.scheme}://{parts.username}:{parts.password}@127.0.0.1:{system.wires[wire].port}"


def _write_config(system: System) -> Path:
    """The shipped configuration, with our people in it."""
    lines = [
        f"  {{ id = {one.id}, username = {json.dumps(one.username)}, rank = {json.dumps(rank)} }},\n"
        for people, rank in ((system.park.workers, "Cast Member"), (system.park.guests, "Guest"))
        for one in people
    ]
    before, marker, after = (ROOT / "callboard.toml").read_text("utf-8").partition("people = [\n")
    assert marker
    path = system.folder / "callboard.toml"
    path.write_text(before + marker + "".join(lines) + after, "utf-8")
    return path


def _read_keys(system: System) -> None:
    for line in (system.data_dir / "keys.env").read_text("utf-8").splitlines():
        name, _, key = line.partition("=")
        system.park.keys[name.removesuffix("_KEY").lower()] = key


async def _stop_callboard(system: System) -> None:
    assert system.up
    if system.up.returncode is None:
        system.up.send_signal(signal.SIGTERM)
        await system.up.wait()


async def _stop_server(system: System, name: str) -> None:
    process = system.running[name]
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        await asyncio.to_thread(process.wait, 20)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)


def keep(folder: Path, target: Path) -> None:
    """Copy what explains a run (histories and logs, no secret) to another folder."""
    shutil.rmtree(target, ignore_errors=True)
    for path in (*folder.rglob("*.jsonl"), *folder.rglob("*.log"), folder / "up.txt", folder / "faults.txt"):
        if path.is_file():
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
