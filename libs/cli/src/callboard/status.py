"""What runs, and how it is."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pymongo.errors import PyMongoError

from callboard.access import open_database
from callboard.errors import of_mongodb
from callboard.services import DATABASES
from callboard.system import answers_ok, read_run_file
from common.dead_letters import DEAD_LETTERS
from common.outbox import OUTBOX
from common.settings import Settings


@dataclass(frozen=True)
class ComponentStatus:
    """One process of `callboard up`; `state` is ready, running (it has no health check), not ready or gone."""

    name: str
    pid: int
    port: int | None
    log: str | None
    state: str
    memory_mb: int
    seconds: int


@dataclass(frozen=True)
class Status:
    """The components, if it is a system of `callboard up`; None for what MongoDB does not tell, with the `trouble`."""

    components: list[ComponentStatus]
    unsent_events: dict[str, int] | None
    refused_events: dict[str, int] | None
    dead_letters: dict[str, int] | None
    trouble: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether all that is known of runs and is ready."""
        is_down = any(component.state in ("gone", "not ready") for component in self.components)
        return not is_down and self.unsent_events is not None


async def status(settings: Settings, data_dir: Path | None) -> Status:
    """The status of the system with these settings, whose processes `data_dir` lists."""
    # In a thread: a health check that hangs does not keep back a signal to stop.
    components = await asyncio.to_thread(_components, data_dir) if data_dir else []
    try:
        unsent = await _count(settings, OUTBOX.name, {"sent": False})
        refused = await _count(settings, OUTBOX.name, {"sent": False, "refused": {"$exists": True}})
        dead = await _count(settings, DEAD_LETTERS.name, {})
    except PyMongoError as error:
        return Status(components, None, None, None, of_mongodb(error))
    return Status(components, unsent, refused, dead)


def _components(data_dir: Path) -> list[ComponentStatus]:
    components = []
    for entry in read_run_file(data_dir):
        state, memory, seconds = "gone", 0, 0
        if process := entry.find():
            is_well = entry.health_url is None or answers_ok(entry.health_url)
            state = "running" if entry.health_url is None else "ready" if is_well else "not ready"
            try:
                memory = process.memory_info().rss >> 20
                seconds = int(time.time() - process.create_time())
            except psutil.Error:
                state = "gone"
        components.append(
            ComponentStatus(entry.name, entry.pid, entry.port, entry.log, state, memory, seconds)
        )
    return components


async def _count(settings: Settings, collection: str, where: Mapping[str, Any]) -> dict[str, int]:
    counts = {}
    for name in DATABASES:
        async with open_database(settings, name) as database:
            counts[name] = await database[collection].count_documents(where)
    return counts
