"""A park, its backup and a machine to restore it on, and what tests do with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import bson
from bson.raw_bson import RawBSONDocument

from callboard.backup_file import Reader
from callboard.verify import verify
from common.settings import Settings
from tests.support import unique_id
from tests.support.accounting import log
from tests.support.machine import Machine

RUNNING = ("accounts", "certifications", "shifts")
STRANGE: dict[str, Any] = {
    "_id": bson.ObjectId(),
    "zulu": bson.Int64(1),
    "alpha": 1,
    "decimal": bson.Decimal128("0.10"),
    "moment": datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
    "bytes": bson.Binary(b"\0\1", 5),
    "pattern": bson.Regex("^a", "i"),
    "stamp": bson.Timestamp(7, 8),
    "nothing": None,
    "nested": {"b": [1.0, {"a": "🎢"}], "a": bson.MinKey()},
}
"""A document of all kinds of values, of a plugin for instance."""


@dataclass(frozen=True)
class Saved:
    """A park, a backup of it, and the people whose shift was acknowledged before the backup was begun."""

    park: Machine
    file: Path
    people: list[int]


@asynccontextmanager
async def traffic(work: Any) -> AsyncIterator[list[int]]:
    """Do `work` for one new person after the other, several at a time; answers the people so far."""
    people: list[int] = []

    async def go_on() -> None:
        while True:
            people.append(unique_id())
            await work(people[-1])

    tasks = [asyncio.create_task(go_on()) for _ in range(4)]
    try:
        yield people
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def log_all(park: Machine, people: list[int]) -> None:
    """Log a shift of each of them, all of which are acknowledged."""
    async with park.service("shifts") as client:
        answers = await asyncio.gather(*(log(client, user) for user in people))
    assert {answer.status_code for answer in answers if answer} == {200}
    assert all(answers)


async def verified(settings: Settings) -> Any:
    """The report of `verify`, once all that is under way is done."""
    return await verify(settings, lambda *_: None, patience_seconds=90)


def quiet(*_: object) -> None:
    """Told of the progress, and does nothing."""


def names_in(folder: Path) -> list[str]:
    """What is in this folder."""
    return [path.name for path in folder.iterdir()]


def contents(file: BinaryIO) -> dict[str, list[RawBSONDocument]]:
    """What a backup holds, by collection."""
    reader = Reader(file)
    found: dict[str, list[RawBSONDocument]] = {name: [] for name in reader.header.collections}
    for name, documents in reader.blocks():
        found[name] += documents
    return found
