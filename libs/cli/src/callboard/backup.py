"""All databases as they are at one moment, in one file, while Callboard runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import BinaryIO, cast

import pymongo
from pymongo.errors import OperationFailure

from callboard.access import open_databases
from callboard.backup_file import Header, Writer, describe
from callboard.databases import present_collections
from callboard.errors import CommandError
from common.mongo import RESTORING, Documents, Session
from common.settings import Settings

_READ_AT_ONCE = 1_000
_AWAY_SECONDS = 10.0
_LONGEST_READ_SECONDS = 60.0
_LONGEST_SECONDS = 24 * 3600.0
_SNAPSHOT_TOO_OLD = 239
_SNAPSHOT_UNAVAILABLE = 246

Advance = Callable[[int, int], None]
"""Told how many documents are done, and of how many (about)."""


async def backup(settings: Settings, file: BinaryIO, advance: Advance) -> str:
    """Write a backup into `file`, some documents at a time, and answer what it holds, for people.

    Every read is one of the same snapshot, which MongoDB keeps for a limited time. Raises CommandError.
    """
    async with open_databases(settings) as databases:
        with pymongo.timeout(_AWAY_SECONDS):
            if RESTORING in await databases["gateway"].list_collection_names():
                raise CommandError(
                    "These databases hold half of a backup: run `callboard restore` again first."
                )
            collections = {
                f"{name}.{collection}": database[collection]
                for name, database in databases.items()
                for collection in await present_collections(database)
            }
            if not collections:
                raise CommandError(
                    "There is nothing to back up: Callboard was never started on this MongoDB."
                )
            size = sum([await one.estimated_document_count() for one in collections.values()])
        header = Header(version("callboard"), datetime.now(UTC), list(collections))
        writer = Writer(file, header)
        async with databases["gateway"].client.start_session(snapshot=True) as session:
            for name, collection in collections.items():
                async for documents in _batches(collection, session):
                    await asyncio.to_thread(writer.write, name, documents)
                    advance(sum(writer.counts.values()), size)
        await asyncio.to_thread(writer.seal)
    return describe(header, writer.counts)


async def _batches(collection: Documents, session: Session) -> AsyncIterator[bytes]:
    """All documents as they are in the snapshot, byte by byte."""
    async with collection.find_raw_batches(batch_size=_READ_AT_ONCE, session=session) as cursor:
        while True:
            try:
                # MongoDB takes the time that it is told for one that all reads of a cursor may take together.
                with pymongo.timeout(_LONGEST_SECONDS):
                    async with asyncio.timeout(_LONGEST_READ_SECONDS):
                        documents = await anext(cursor, None)
            except TimeoutError:
                raise CommandError("MongoDB did not answer for a minute. Begin again.") from None
            except OperationFailure as error:
                if error.code not in (_SNAPSHOT_TOO_OLD, _SNAPSHOT_UNAVAILABLE):
                    raise
                raise CommandError(
                    "MongoDB does not keep the moment of this backup any more. Begin again; if that takes more than a "
                    "few minutes, set minSnapshotHistoryWindowInSeconds of MongoDB to more seconds than it takes."
                ) from error
            if documents is None:
                return
            yield cast(bytes, documents)  # the driver's types have it that they are decoded
