"""The databases of all services, and the shape that their collections must have."""

import asyncio
from collections.abc import Sequence

import pymongo

from callboard.services import DATABASES, SERVICES, declared
from common.mongo import RESTORING, Collection, Database, connect, migrate
from common.settings import ProcessSettings
from gateway import repository as gateway

_SECONDS = 3600.0
"""An index over many documents takes its time."""

_AWAY_SECONDS = 10.0


def collections_of(name: str) -> Sequence[Collection]:
    """What the database of this service, or of the gateway, must have."""
    return declared(name).all_collections if name in SERVICES else gateway.COLLECTIONS


async def migrate_database(settings: ProcessSettings, name: str) -> None:
    """Bring the database of one service up to date. Safe to repeat."""
    client, database = connect(settings, name)
    async with client:
        with pymongo.timeout(_AWAY_SECONDS * settings.patience):
            await database.command("ping")  # a MongoDB that is not there is not waited for as long
        with pymongo.timeout(_SECONDS):
            await migrate(database, collections_of(name))


async def migrate_all(settings: ProcessSettings) -> None:
    """Bring every database up to date. Safe to repeat. Raises what one of them raised, once all have ended."""
    work = (migrate_database(settings, name) for name in DATABASES)
    # To end with the first that fails would break off the others while they close their clients.
    for error in await asyncio.gather(*work, return_exceptions=True):
        if error is not None:
            raise error


async def present_collections(database: Database) -> list[str]:
    """Every collection that there is, but for MongoDB's own and the mark of a restore."""
    names = await database.list_collection_names(filter={"type": "collection"})
    return sorted(name for name in names if name != RESTORING and not name.startswith("system."))
