"""Processes that are started here, and stopped at the end however it comes."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from callboard.files import private_dir
from callboard.servers import free_port, listens
from callboard.system import Process, answers_ok, read_run_file

ROOT = Path(__file__).parents[1]
CALLBOARD = Path(sys.executable).with_name("callboard")
FORMS = ("one process", "processes")
_START_SECONDS = 60.0


class DidNotStart(Exception):
    """A process ended, or was not ready in time; the text holds the end of what it said."""


@contextmanager
def started(
    name: str,
    command: Sequence[str],
    folder: Path,
    is_ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
) -> Iterator[psutil.Process]:
    """A process from when it is ready; what it says goes into `folder`. Raises DidNotStart."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - what is measured
            command,
            cwd=ROOT,
            env=environment(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches the measuring only, which stops all in order
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DidNotStart(f"{name} did not start:\n{_end_of(log)}")
            time.sleep(0.005)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Our own environment, with what is given in place of all that concerns Callboard."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    return own | dict(given)


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:]


@dataclass(frozen=True)
class Callboard:
    """A running Callboard: the port of its gateway and, where each runs in its own, of each service."""

    folder: Path
    form: str
    port: int
    supervisor: psutil.Process

    def entries(self) -> list[Process]:
        """What run.json lists."""
        return read_run_file(self.folder)

    def port_of(self, service: str) -> int:
        """Where a service of the form with processes listens."""
        return next(entry.port for entry in self.entries() if entry.name == service and entry.port)

    def process(self, name: str) -> psutil.Process:
        """A component's process."""
        return psutil.Process(next(entry.pid for entry in self.entries() if entry.name == name))

    @property
    def gateway(self) -> psutil.Process:
        """The process that answers on `port`."""
        return self.process("callboard" if self.form == "one process" else "gateway")

    def python(self) -> list[psutil.Process]:
        """All processes of our own code: the supervisor, the gateway, the services."""
        ours = [e for e in self.entries() if e.name not in ("mongod", "nats-server", "supervisor")]
        return [self.supervisor, *(psutil.Process(entry.pid) for entry in ours)]


@contextmanager
def callboard(form: str, folder: Path, env: Mapping[str, str]) -> Iterator[Callboard]:
    """`callboard up` in one of the FORMS, its data in `folder`; `env` may name MongoDB and NATS."""
    private_dir(folder)
    port = free_port()
    command = [str(CALLBOARD), "up", "--port", str(port), "--data-dir", str(folder)]
    if form == "processes":
        command.append("--processes")

    def is_ready() -> bool:
        # Only once it listens: a health check that is refused would cost the starting process nothing, but us.
        return listens(port) and answers_ok(f"http://127.0.0.1:{port}/readyz") and _all_ready(folder)

    with started(f"callboard-{form.replace(' ', '-')}", command, folder, is_ready, env) as supervisor:
        yield Callboard(folder, form, port, supervisor)


def _all_ready(folder: Path) -> bool:
    return all(answers_ok(entry.health_url) for entry in read_run_file(folder) if entry.health_url)


@contextmanager
def nginx(
    binary: str, folder: Path, upstreams: Mapping[str, int], headers: Mapping[str, str]
) -> Iterator[int]:
    """nginx in front of services by path; answers its port. `headers` are added to each request."""
    port = free_port()
    home = private_dir(folder / f"nginx-{port}")
    config = home / "nginx.conf"
    temporary = "\n".join(
        f"  {kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    added = "\n".join(f'      proxy_set_header {name} "{value}";' for name, value in headers.items())
    servers = "\n".join(
        f"  upstream to{n} {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}"
        for n, upstream in enumerate(upstreams.values())
    )
    locations = "\n".join(
        f"""\
    location {path} {{
      proxy_pass http://to{n};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
{added}
    }}"""
        for n, path in enumerate(upstreams)
    )
    with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            f"""\
daemon off;
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
{temporary}
{servers}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
{locations}
  }}
}}
"""
        )
    command = [binary, "-p", str(home), "-e", str(home / "error.log"), "-c", str(config)]
    if os.getuid() == 0:  # the worker must reach its folder
        command += ["-g", "user root;"]
    with started("nginx", command, home, lambda: listens(port)):
        yield port


@contextmanager
def static_app(folder: Path) -> Iterator[int]:
    """An ASGI app that answers every request the same; answers its port."""
    with python_app("bench.static", folder) as (port, _):
        yield port


@contextmanager
def python_app(
    module: str, folder: Path, env: Mapping[str, str] | None = None, *arguments: str
) -> Iterator[tuple[int, psutil.Process]]:
    """A module that serves on the port that is its first argument; answers the port and the process."""
    port = free_port()
    name = re.sub(r"[^a-z0-9]+", "-", " ".join((module, *arguments)))
    command = [sys.executable, "-m", module, str(port), *arguments]
    with started(name, command, folder, lambda: listens(port), env) as process:
        yield port, process


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """What they have used so far."""
    times = [process.cpu_times() for process in processes]
    return sum(time.user + time.system for time in times)


def memory_mb(processes: Sequence[psutil.Process]) -> float:
    """What they hold now (RSS)."""
    return sum(process.memory_info().rss for process in processes) / 1e6
