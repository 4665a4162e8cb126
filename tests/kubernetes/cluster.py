"""The pods of the base as processes of this machine, each with the environment, files and users that it would have."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pymongo import AsyncMongoClient

from callboard.replica_set import prepare_mongod
from callboard.servers import Server, free_port, listens, mongod, nats_server
from common.mongo import Document
from tests.architecture.repository import SERVICES
from tests.kubernetes.manifests import K8S, Workload, documents, generated, workloads
from tests.support import wait_until

SERVED = (*SERVICES, "gateway")


@dataclass
class Pod:
    """One process; `ports` are those of its container by name, as they are on this machine."""

    workload: Workload
    ports: Mapping[str, int]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start what the image would."""
        command = [sys.executable, "-P", "-m", f"{self.workload.package}.main"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, cwd=self.log.parent
            )

    async def is_ready(self) -> bool:
        """Whether its readiness probe succeeds. Fails when the process has ended."""
        assert self.process and self.process.poll() is None, self.log.read_text("utf-8", "replace")
        probe = self.workload.probes["readinessProbe"]
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            with suppress(httpx.HTTPError):
                return (await client.get(self.url(probe["port"]) + probe["path"])).status_code == 200
        return False

    def url(self, port: str = "http") -> str:
        """Where a port of its container is on this machine."""
        return f"http://127.0.0.1:{self.ports[port]}"


@dataclass
class Cluster:
    """All pods; `mongo_urls` and `nats_urls` by user."""

    folder: Path
    mongo_urls: Mapping[str, str]
    nats_urls: Mapping[str, str]
    pods: dict[str, Pod] = field(default_factory=dict)
    ops_env: Mapping[str, str] = field(default_factory=dict)

    async def ops(self, *arguments: str) -> str:
        """What a command of the operator's says. Fails when it does."""
        command = (str(Path(sys.executable).with_name("callboard")), *arguments)
        process = await asyncio.create_subprocess_exec(
            *command, env=self.ops_env, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, output.decode()
        return output.decode()


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """MongoDB and NATS with the users of k8s/platform, migrated as the Job does, and every pod ready."""
    folder = Path(tempfile.mkdtemp(prefix="callboard-pods-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        server = mongod(folder)
        stack.enter_context(_running(list(server.command), folder / "mongod.log", dict(os.environ)))
        await prepare_mongod(server.url)
        mongo_urls = await _add_users(server)
        nats_urls = await _start_nats(stack, folder)
        found = Cluster(folder, mongo_urls, nats_urls)
        token = secrets.token_urlsafe(32)
        all_workloads = workloads()
        ports = {name: {port: free_port() for port in all_workloads[name].ports} for name in SERVED}
        for name in ("ops", *SERVED):
            workload = all_workloads[name]
            env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
            env |= generated("prod", "configMap")["callboard-settings"] | workload.env
            env |= {
                "CALLBOARD_SECRETS_DIR": str(_mounted(folder / name, name, found, token)),
                "CALLBOARD_CONFIG": str(K8S / "overlays/prod/callboard.toml"),
                "CALLBOARD_STREAM_REPLICAS": "1",  # there is one NATS here
            }
            if name == "ops":
                found.ops_env = env
                continue
            env |= _on_this_machine(ports, name)
            found.pods[name] = Pod(workload, ports[name], env, folder / f"{name}.log")
        await found.ops(*all_workloads["migrate"].container["command"][1:])
        for pod in found.pods.values():
            pod.start()
            assert pod.process
            stack.callback(_stop, pod.process)
        for pod in found.pods.values():
            await wait_until(pod.is_ready, 60)
        yield found


def _on_this_machine(ports: Mapping[str, Mapping[str, int]], name: str) -> dict[str, str]:
    """What names and addresses of the cluster are here."""
    urls = {service: f"http://127.0.0.1:{ports[service]['http']}" for service in SERVICES}
    env = {f"CALLBOARD_{service.upper()}_URL": url for service, url in urls.items()}
    env |= {"CALLBOARD_HOST": "127.0.0.1", "CALLBOARD_PORT": str(ports[name]["http"])}
    if name == "gateway":
        env |= {
            "CALLBOARD_UPSTREAMS": json.dumps({service: [url] for service, url in urls.items()}),
            "CALLBOARD_METRICS_HOST": "127.0.0.1",
            "CALLBOARD_METRICS_PORT": str(ports[name]["metrics"]),
        }
    return env


def _mounted(folder: Path, name: str, found: Cluster, token: str) -> Path:
    """A folder of secrets as the kubelet lays it out: each file a link into a folder that a link stands for."""
    values = {
        "callboard_internal_token": token,
        "callboard_mongo_url": found.mongo_urls[name],
    }
    if name in found.nats_urls:
        values["callboard_nats_url"] = found.nats_urls[name]
    (folder / "..2026").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026")
    for key, value in values.items():
        (folder / "..2026" / key).write_text(value)
        (folder / key).symlink_to(f"..data/{key}")
    return folder


async def _add_users(server: Server) -> dict[str, str]:
    """The users of k8s/platform/mongodb.yaml; their connection strings."""
    (database,) = documents(K8S / "platform/mongodb.yaml")
    urls = {}
    client: AsyncMongoClient[Document] = AsyncMongoClient(server.url)
    async with client:
        for role in database["spec"]["security"]["roles"]:
            await client[role["db"]].command(
                "createRole", role["role"], privileges=role["privileges"], roles=[]
            )
        for user in database["spec"]["users"]:
            roles = [{"role": role["name"], "db": role["db"]} for role in user["roles"]]
            password = secrets.token_urlsafe(16)
            await client[user["db"]].command("createUser", user["name"], pwd=password, roles=roles)
            where = urlsplit(server.url)
            urls[user["name"]] = (
                f"mongodb://{user['name']}:{password}@127.0.0.1:{where.port}/?{where.query}&authSource={user['db']}"
            )
    return urls


async def _start_nats(stack: ExitStack, folder: Path) -> dict[str, str]:
    """A server with the users of k8s/platform/nats-values.yaml; their URLs."""
    (values,) = documents(K8S / "platform/nats-values.yaml")
    merged = values["config"]["merge"]
    port = free_port()
    # What stands between << and >> is written without quotes by the chart, and read from the environment by NATS.
    users = json.dumps(merged["accounts"]).replace('"<< ', "").replace(' >>"', "")
    jetstream = json.dumps({"store_dir": str(folder / "nats"), **values["config"]["jetstream"]["merge"]})
    file = folder / "nats.conf"
    file.write_text(f'listen: "127.0.0.1:{port}"\naccounts: {users}\njetstream: {jetstream}\n')
    passwords = {variable: "p" + secrets.token_hex(16) for variable in values["container"]["env"]}
    command = [nats_server(folder / "unused").command[0], "--config", str(file)]
    stack.enter_context(_running(command, folder / "nats.log", {**os.environ, **passwords}))
    await wait_until(lambda: listens(port), 30)
    names = [user["user"] for account in merged["accounts"].values() for user in account["users"]]
    return {name: f"nats://{name}:{passwords[f'{name.upper()}_PASSWORD']}@127.0.0.1:{port}" for name in names}


@contextmanager
def _running(command: list[str], log: Path, env: Mapping[str, str]) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, process_group=0)
    try:
        yield
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
