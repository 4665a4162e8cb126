"""The park of the contract tests, in containers."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from callboard.services import SERVICES
from tests.containers.engine import Project, inspect, logs, project, run
from tests.contracts.park import MANY_WRONG_KEYS, Park, changed_config
from tests.support import wait_until


class ContainerPark(Park):
    """A park whose `callboard` runs in a container, and whose logs the engine keeps."""

    def __init__(self, project: Project, folder: Path, network: str) -> None:
        client = httpx.AsyncClient(base_url=project.url, timeout=20, trust_env=False)
        super().__init__("containers", folder / "data", project.url, None, client, network)
        self.project = project

    def must_repeat(self, response: httpx.Response) -> bool:  # noqa: ARG002 - never
        """Never: with a replica that is killed, what a caller sees of it is what is looked at."""
        return False

    async def callboard(self, *arguments: str, exit_code: int = 0) -> str:
        return await self.project.callboard(*arguments, exit_code=exit_code)

    def logs(self) -> dict[Path, str]:
        return {Path(container): logs(container) for container in self.project.containers()}

    async def stop(self) -> None:
        """Leave the project as it is: who started it stops it."""


StartPark = Callable[[int], Awaitable[ContainerPark]]
"""Answers the one park in containers that runs, with so many replicas of each service; another is stopped before."""


@asynccontextmanager
async def container_park(folder: Path, replicas: int) -> AsyncIterator[ContainerPark]:
    """A park in containers of its own, with keys made as an operator makes the first ones.

    Of several replicas of a service, one is killed.
    """
    async with project(folder, changed_config(folder, MANY_WRONG_KEYS), replicas) as running:
        published = await inspect(f"{running.name}_published")
        park = ContainerPark(running, folder, published["IPAM"]["Config"][0]["Subnet"])
        async with park.client:
            for scope in ("roblox", "discord", "operator"):
                made = await park.callboard("keys", "create", scope, "--scope", scope, "--json")
                park.keys[scope] = json.loads(made)["key"]
            park.secrets |= set(park.keys.values())
            await wait_until(lambda: park.knows(park.keys["operator"]))
            await park.admit_many()
            if replicas > 1:
                await run("docker", "kill", *(running.containers(service)[0] for service in SERVICES))
            yield park
