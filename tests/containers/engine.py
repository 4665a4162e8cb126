"""Callboard in containers, called as an operator calls it: by `docker compose` and `docker`."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml

from callboard.servers import free_port
from callboard.services import DATABASES, SERVICES
from tests.support import ROOT, unique_id, wait_until

COMPOSE_FILE = ROOT / "docker-compose.yml"


@cache
def has_engine() -> bool:
    """Whether containers can be started on this machine."""
    return shutil.which("docker") is not None and _succeeds("docker", "info")


@cache
def _compose() -> tuple[str, ...]:
    return ("docker", "compose") if _succeeds("docker", "compose", "version") else ("docker-compose",)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


async def run(*command: str, exit_code: int = 0, **environment: str) -> str:
    """What a command prints."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == exit_code, f"{command}: {out.decode()[-2000:]}{error.decode()[-4000:]}"
    return out.decode()


def logs(container: str) -> str:
    """What a container said so far."""
    command = ("docker", "logs", container)
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout


async def inspect(what: str) -> dict[str, Any]:
    """What the engine knows of a container, an image or a network."""
    found: list[dict[str, Any]] = json.loads(await run("docker", "inspect", what))
    return found[0]


@dataclass(frozen=True)
class Project:
    """One running system of docker-compose.yml; `changes` is a file that changes a little of it."""

    name: str
    changes: Path
    port: int

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        return f"http://127.0.0.1:{self.port}"

    async def compose(self, *arguments: str, exit_code: int = 0) -> str:
        """`docker compose ...` of this system."""
        files = ("-f", str(COMPOSE_FILE), "-f", str(self.changes))
        return await run(
            *_compose(),
            *files,
            *("-p", self.name),
            *arguments,
            exit_code=exit_code,
            GATEWAY_PORT=str(self.port),
            CALLBOARD_PUBLIC_URL=self.url,
        )

    async def up(self, replicas: int = 1) -> None:
        """Return once it serves, with so many replicas of each service."""
        scale = [part for name in SERVICES for part in ("--scale", f"{name}={replicas}")]
        await self.compose("up", "-d", *(scale if replicas > 1 else ()))
        await wait_until(self.serves, 60)

    async def callboard(self, *arguments: str, exit_code: int = 0) -> str:
        """`callboard ...` in a container of its own, which sees the CSV files that are named."""
        seen = [part for one in arguments if one.endswith(".csv") for part in ("-v", f"{one}:{one}:ro")]
        return await self.compose(
            "run", "--rm", "-T", *seen, "ops", "callboard", *arguments, exit_code=exit_code
        )

    def containers(self, *services: str) -> list[str]:
        """The ids of the containers of these services, or of all; also of those that have ended."""
        # Not `compose ps`: what it lists differs from one version to the next.
        command = (
            "docker",
            *("ps", "--all", "--format", '{{.ID}} {{.Label "com.docker.compose.service"}}'),
            *("--filter", f"label=com.docker.compose.project={self.name}"),
        )
        listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        pairs = [line.split() for line in listed.splitlines()]
        return [container for container, service in pairs if not services or service in services]

    def container(self, service: str) -> str:
        """The one container of a service."""
        (found,) = self.containers(service)
        return found

    async def serves(self) -> bool:
        """Whether the gateway is ready."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            with suppress(httpx.HTTPError):
                return (await client.get(f"{self.url}/readyz")).status_code == 200
        return False


@asynccontextmanager
async def project(folder: Path, config: Path, replicas: int = 1) -> AsyncIterator[Project]:
    """`docker compose up` with this `callboard.toml`; all of it is removed in the end."""
    mounted = {"volumes": [f"{config}:/etc/callboard/callboard.toml:ro"]}
    changes: dict[str, dict[str, Any]] = dict.fromkeys((*DATABASES, "ops"), mounted)
    if "NATS_IMAGE" in os.environ:  # another than docker-compose.yml is made for: it may have no wget
        look = "import urllib.request as r; r.urlopen('http://127.0.0.1:8222/healthz?js-enabled-only=true')"
        changes["nats"] = {"healthcheck": {"test": ["CMD", "python3", "-c", look]}}
    file = folder / "changes.yml"
    file.write_text(yaml.safe_dump({"services": changes}), "utf-8")
    one = Project(f"callboard-test-{unique_id()}", file, free_port())
    try:
        await one.compose("build")
        await one.up(replicas)
        yield one
    finally:
        await one.compose("down", "--volumes", "--remove-orphans", "--timeout", "30")
