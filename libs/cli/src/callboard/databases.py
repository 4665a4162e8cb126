"""The databases of all services, and the shape that their collections must have."""

import asyncio
from collections.abc import Sequence
from importlib import import_module

import pymongo

from callboard.system import SERVICES
from common.mongo import Collection, connect, migrate
from common.settings import Settings

_SECONDS = 3600.0
"""An index over many documents takes its time."""

DATABASES = (*SERVICES, "gateway")


def collections_of(name: str) -> Sequence[Collection]:
    """What the database of this service must have."""
    module = import_module(f"{name}.repository")
    collections: Sequence[Collection] = module.COLLECTIONS
    return collections


async def migrate_database(settings: Settings, name: str) -> None:
    """Bring the database of one service up to date. Safe to repeat."""
    client, database = connect(settings, name)
    async with client:
        with pymongo.timeout(_SECONDS):
            await migrate(database, collections_of(name))


async def migrate_all(settings: Settings) -> None:
    """Bring every database up to date. Safe to repeat."""
    await asyncio.gather(*(migrate_database(settings, name) for name in DATABASES))
