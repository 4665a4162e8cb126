"""A backup comes back, into databases that hold nothing and that no service uses."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pymongo
from nats.js.errors import NotFoundError
from pymongo.errors import PyMongoError

from callboard.access import find_settings, open_databases
from callboard.acts import operator, record
from callboard.backup import Advance
from callboard.backup_file import Reader, describe
from callboard.components import Options, plan_servers
from callboard.databases import migrate_all, present_collections
from callboard.errors import CommandError, of_mongodb
from callboard.files import private_dir
from callboard.jetstream import open_jetstream
from callboard.prepare import set_aside_other_keys
from callboard.replica_set import prepare_mongod
from callboard.servers import is_ours, listens
from callboard.services import DATABASES
from callboard.supervisor import Component, Supervisor
from callboard.system import only_one, stop_leftovers
from common.mongo import RESTORING, Database, Documents
from common.outbox import OUTBOX
from common.settings import Settings
from common.stream import STREAM
from gateway.keys import list_keys, revoke_key
from gateway.models import Key

_DATA = (
    ("shifts", "shifts"),
    ("accounts", "ledger"),
    ("certifications", "certifications"),
    ("applications", "applications"),
)
"""What a Callboard that nobody used yet has none of. It has keys, and may know people and read their ranks."""

_LONGEST_SECONDS = 24 * 3600.0
_PATIENCE_SECONDS = 10.0
_START_SECONDS = 60.0

Databases = Mapping[str, Database]


async def check(file: BinaryIO) -> Reader:
    """Read the backup to its end, and answer what it holds. Raises CommandError unless all of it is as it was made."""
    file.seek(0)
    reader = Reader(file)
    for _ in reader.blocks():
        await asyncio.sleep(0)  # so that a signal to stop is heeded meanwhile
    file.seek(0)
    return reader


@dataclass(frozen=True)
class Restored:
    """What a backup held, for people, and each key that was valid in it, with what became of that key since then.

    That is known where the databases that the backup replaced had keys.
    """

    held: str
    keys: Sequence[tuple[Key, str]]


async def restore(
    system: AbstractAsyncContextManager[Settings],
    file: BinaryIO,
    advance: Advance,
    *,
    revoke_keys: bool = False,
) -> Restored:
    """Put a backup into the databases of a system. With `revoke_keys`, none of its keys is valid afterwards.

    Nothing is written before all of the file was read and found good. After a crash, or an error, no service
    starts on what is there until a restore came to its end. Raises CommandError.
    """
    held = await check(file)
    if unknown := {name.partition(".")[0] for name in held.counts} - set(DATABASES):
        raise CommandError(
            f"This Callboard has no database {', '.join(sorted(unknown))}: restore the backup with the version that made "
            f"it, {held.header.version}."
        )
    async with system as settings, open_databases(settings) as databases:
        await _refuse_data(databases)
        await _forget_stream(settings)
        gateway = databases["gateway"]
        before = {key.hash: key for key in await list_keys(gateway)}
        with _half_of_it(), pymongo.timeout(_LONGEST_SECONDS):
            await _clear(databases)
            await _fill(databases, file, held, advance)
            for database in databases.values():
                # What was sent may not have been handled; whoever has handled it ignores it.
                await database[OUTBOX.name].update_many(
                    {"sent": True}, {"$set": {"sent": False}, "$unset": {"sent_at": ""}}
                )
            # Indexes are built faster over what is there, and some let MongoDB remove what is old.
            await migrate_all(settings)
            keys = [
                (key, _change(key, before))
                for key in await list_keys(gateway)
                if key.is_valid(datetime.now(UTC))
            ]
            revoked = sorted({key.name for key, _ in keys}) if revoke_keys else []
            for name in revoked:
                await revoke_key(gateway, name, operator())
            text = describe(held.header, held.counts)
            also = f" Revoked its keys: {', '.join(revoked)}." if revoked else ""
            await record(gateway, "restore", f"Restored {text}.{also}")
            for name in DATABASES:
                await databases[name].drop_collection(RESTORING)
    return Restored(text, keys)


def _change(key: Key, before: Mapping[bytes, Key]) -> str:
    """What became of a key after the backup, as far as the databases that it replaced knew."""
    if not before:
        return ""
    known = before.get(key.hash)
    if known is None:
        return "unknown here"
    if known.revoked_at is not None:
        return "revoked"
    return "rotated" if key.current and not known.current else ""


@contextmanager
def _half_of_it() -> Iterator[None]:
    """Say what is left behind by a restore that was told to stop, or that MongoDB went away from."""
    half = "The databases may hold half of the backup, and no service starts on that: run `callboard restore` again."
    try:
        yield
    except asyncio.CancelledError:
        raise CommandError(half) from None
    except PyMongoError as error:
        raise CommandError(f"{of_mongodb(error)} {half}") from error


@asynccontextmanager
async def stopped_system(data_dir: Path) -> AsyncIterator[Settings]:
    """The MongoDB and NATS that `callboard up` would use with this folder, while it is stopped or never ran.

    Those that it would start run for as long as the context is open. Raises CommandError.
    """
    options = Options(
        data_dir,
        Path("callboard.toml"),
        "127.0.0.1",
        0,
        mongo_url=os.environ.get("CALLBOARD_MONGO_URL"),
        nats_url=os.environ.get("CALLBOARD_NATS_URL"),
    )
    os.umask(0o077)  # what the servers write is private as well
    data_dir = private_dir(data_dir).resolve()
    with only_one(data_dir):
        stop_leftovers(data_dir)
        supervisor = Supervisor(data_dir, lambda _: None)
        try:
            servers, _ = plan_servers(options, data_dir)
            for server in servers:
                supervisor.start(server)
            await _are_ready(supervisor, servers)
            settings = find_settings(data_dir)
            url = settings.mongo_url.get_secret_value()
            if is_ours(data_dir, url):
                await prepare_mongod(url)
            yield settings
            await set_aside_other_keys(settings, data_dir)
        finally:
            supervisor.stop()


async def _are_ready(supervisor: Supervisor, servers: Sequence[Component]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not all(listens(server.port or 0) for server in servers):
        supervisor.check()
        if time.monotonic() > deadline:
            raise CommandError(
                f"MongoDB and NATS did not get ready within {_START_SECONDS:.0f} s; see their logs."
            )
        await asyncio.sleep(0.05)


async def _refuse_data(databases: Databases) -> None:
    if RESTORING in await databases["gateway"].list_collection_names():
        return  # what is there is half of a backup
    for name, collection in _DATA:
        if await databases[name][collection].find_one({}, ["_id"]):
            raise CommandError(
                f"There is data already ({name}.{collection}), and a backup replaces all there is: restore into an empty "
                "MongoDB, or with --data-dir into a new folder."
            )


async def _forget_stream(settings: Settings) -> None:
    """Delete the stream: what it has may be newer than the backup, and is not of the databases restored.

    Raises CommandError while a service takes events from it.
    """
    # What a service that was just stopped had asked for ends within this time.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    async with open_jetstream(settings) as jetstream:
        try:
            while users := [one.name for one in await jetstream.consumers_info(STREAM) if one.num_waiting]:
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"Callboard runs ({', '.join(users)}): stop all services and the gateway before a restore."
                    )
                await asyncio.sleep(0.2)
            await jetstream.delete_stream(STREAM)
        except NotFoundError:
            pass


async def _clear(databases: Databases) -> None:
    """Mark the databases, the gateway's first and later last, and remove all else."""
    for name in reversed(DATABASES):
        if RESTORING not in await databases[name].list_collection_names():
            await databases[name].create_collection(RESTORING)
    for database in databases.values():
        for collection in await present_collections(database):
            await database.drop_collection(collection)


async def _fill(databases: Databases, file: BinaryIO, held: Reader, advance: Advance) -> None:
    done = 0
    for name, documents in Reader(file).blocks():
        await _collection(databases, name).insert_many(documents, bypass_document_validation=True)
        done += len(documents)
        advance(done, sum(held.counts.values()))
    for name, count in held.counts.items():
        found = await _collection(databases, name).count_documents({})
        if found != count:
            raise CommandError(
                f"{name} has {found} documents now, and the backup {count}: does anything else use it?"
            )


def _collection(databases: Databases, name: str) -> Documents:
    database, _, collection = name.partition(".")
    return databases[database][collection]
