"""MongoDB: the connection, transactions, and the shape that a service's database must have."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import pymongo
from pymongo import AsyncMongoClient, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    CollectionInvalid,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from common.errors import ConfigurationError, Locked
from common.settings import ProcessSettings
from common.storage.limits import StorageLimits

logger = logging.getLogger(__name__)

Document = dict[str, Any]
Database = AsyncDatabase[Document]
Documents = AsyncCollection[Document]
Session = AsyncClientSession

RESTORING = "restoring"
"""The collection that is there for as long as a backup is only half restored."""

_VERSION = "callboard "
"""How the description of a validator begins that says which version of the collection it belongs to."""

_DURABLE = WriteConcern("majority", j=True)
_TRANSIENT_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")
_OUTAGE_CODES = {
    91,  # ShutdownInProgress
    189,  # PrimarySteppedDown
    10107,  # NotWritablePrimary
    11600,  # InterruptedAtShutdown
    11602,  # InterruptedDueToReplStateChange
    14031,  # OutOfDiskSpace
}
_DUPLICATE_KEY = 11000
_INDEX_NOT_FOUND = 27
_INDEX_OPTIONS_CONFLICT = 85
_VALIDATION_FAILED = 121
_WRITE_CONFLICT = 112
_TOO_LARGE = {4568, 10334}  # what a $lookup finds for all of them

T = TypeVar("T")


@dataclass(frozen=True)
class Collection:
    """What a collection must have: its indexes, and the JSON schema that its documents satisfy.

    Whoever changes `schema` or `indexes` raises `version`, so that a service of the version before can start beside a
    database of the newer one. An index whose options change gets another name; the old one goes into `retired_indexes`.
    """

    name: str
    indexes: Sequence[IndexModel] = ()
    schema: Mapping[str, Any] | None = None
    version: int = 1
    retired_indexes: Sequence[str] = ()


class _Client(AsyncMongoClient[Document]):
    """Is closed by the last of its users, and soon also when MongoDB is away."""

    users = 1
    close_seconds = 1.0

    async def close(self) -> None:
        self.users -= 1
        if self.users == 0:
            with pymongo.timeout(self.close_seconds):
                await super().close()


_shared: ContextVar[_Client | None] = ContextVar("shared", default=None)


def connect(settings: ProcessSettings, service: str) -> tuple[_Client, Database]:
    """A client of the running event loop, and the service's own database. Close the client when done."""
    client = _shared.get()
    if client is None:
        limits = settings.storage
        client = _Client(
            settings.mongo_url.get_secret_value(),
            appname=service,
            timeoutMS=int(limits.answer_seconds * 1000),
            tz_aware=True,
        )
        client.close_seconds = limits.close_seconds
    else:
        client.users += 1
    return client, client.get_database(service, write_concern=_DURABLE)


@asynccontextmanager
async def shared_client(settings: ProcessSettings, name: str) -> AsyncIterator[None]:
    """Who connects in here, or in a task that is started here, gets the same client.

    For services that share a process and a MongoDB: measured, one client instead of five saves a quarter of
    what the process does while it is idle.
    """
    client, _ = connect(settings, name)
    token = _shared.set(client)
    try:
        yield
    finally:
        _shared.reset(token)
        await client.close()


def answer_seconds(database: Database) -> float | None:
    """How long one operation, or one transaction as a whole, may take (see StorageLimits); None for ever."""
    seconds: float | None = database.client.options.timeout
    return seconds


async def transaction(
    database: Database,
    work: Callable[[Session], Awaitable[T]],
    *,
    locked_seconds: float = math.inf,
) -> T:
    """What `work` answers, after all that it wrote with the given session is committed and durable.

    `work` may run more than once: let it have no effect but on this database. The reads in it see one
    snapshot, and a concurrent change of a document that it writes makes it run again. Raises Locked when that
    is still so `locked_seconds` later, or when the time is up, as after a process has died between its writes and its
    commit; nothing was written then.
    """
    first_conflict = math.inf

    async def attempt(session: Session) -> T:
        nonlocal first_conflict
        try:
            result = await work(session)
        except OperationFailure as error:
            if error.code == _WRITE_CONFLICT:
                now = time.monotonic()
                first_conflict = min(first_conflict, now)
                if now - first_conflict > locked_seconds:
                    raise Locked from error
            raise
        first_conflict = math.inf  # what fails now is the commit
        return result

    try:
        with pymongo.timeout(answer_seconds(database)):
            async with database.client.start_session() as session:
                return await session.with_transaction(
                    attempt, read_concern=ReadConcern("snapshot"), write_concern=_DURABLE
                )
    except PyMongoError as error:
        # The driver has no time for another attempt and says so: a timeout, which would pass for an outage.
        if error.timeout and first_conflict < math.inf:
            raise Locked from error
        raise


def is_outage(error: BaseException) -> bool:
    """Whether the cause is MongoDB being away, slow or full, so that the same call may succeed later."""
    if not isinstance(error, PyMongoError):
        return False
    if isinstance(error, ConnectionFailure | WTimeoutError) or error.timeout:
        return True
    if any(error.has_error_label(label) for label in _TRANSIENT_LABELS):
        return True
    return isinstance(error, OperationFailure) and error.code in _OUTAGE_CODES


def is_too_slow(error: BaseException) -> bool:
    """Whether MongoDB was there, but did not do it in the time: it may do less of it in the same time."""
    return (
        isinstance(error, PyMongoError)
        and error.timeout
        and not isinstance(error, ServerSelectionTimeoutError)
    )


def is_duplicate(error: Exception) -> bool:
    """Whether what was to be inserted is there already."""
    if isinstance(error, BulkWriteError):
        return any(item["code"] == _DUPLICATE_KEY for item in error.details.get("writeErrors", ()))
    return isinstance(error, DuplicateKeyError)


def is_own_error(error: Exception) -> bool:
    """Whether one single item of a batch may be the cause.

    That is a duplicate, a failed validation, more than 16 MB to read, or what another transaction holds.
    """
    if isinstance(error, Locked) or is_duplicate(error):
        return True
    if isinstance(error, BulkWriteError):
        return any(item["code"] == _VALIDATION_FAILED for item in error.details.get("writeErrors", ()))
    if isinstance(error, WriteError):
        return error.code == _VALIDATION_FAILED
    return isinstance(error, OperationFailure) and error.code in _TOO_LARGE


async def migrate(database: Database, collections: Sequence[Collection]) -> None:
    """Create what is missing, and bring validators up to date. Safe to repeat, and from several machines.

    Leaves alone a collection that a newer version has migrated. Raises ConfigurationError for an index that is there
    with other options.
    """
    for wanted in collections:
        validator = _validator(wanted)
        try:
            await database.create_collection(wanted.name, validator=validator)
        except CollectionInvalid:
            (info,) = await (await database.list_collections(filter={"name": wanted.name})).to_list()
            present = info["options"].get("validator", {})
            if _version(present) > wanted.version:
                continue
            if present != validator:
                # Only where it must be: it waits for every open transaction, and everything waits for it.
                await database.command("collMod", wanted.name, validator=validator)
        if wanted.indexes or wanted.retired_indexes:
            await _migrate_indexes(database, wanted)


async def _migrate_indexes(database: Database, wanted: Collection) -> None:
    collection = database[wanted.name]
    present = await collection.index_information()
    for index in wanted.indexes:
        if different := _differences(present.get(index.document["name"]), index):
            raise ConfigurationError(
                f'Database "{database.name}" has the index {index.document["name"]} of {wanted.name} with {different}: '
                'drop it, and run "callboard migrate" again.'
            )
    retired = [name for name in wanted.retired_indexes if name in present]
    try:
        await _create_indexes(collection, wanted.indexes)
    except OperationFailure as error:
        if error.code != _INDEX_OPTIONS_CONFLICT or not retired:
            raise
        # MongoDB has no two indexes of the same keys that differ in little else.
        await _drop_indexes(collection, retired)
        await _create_indexes(collection, wanted.indexes)
    else:
        await _drop_indexes(collection, retired)


async def _create_indexes(collection: Documents, indexes: Sequence[IndexModel]) -> None:
    if indexes:
        await collection.create_indexes(list(indexes))


async def _drop_indexes(collection: Documents, names: Sequence[str]) -> None:
    for name in names:
        try:
            await collection.drop_index(name)
        except OperationFailure as error:
            if error.code != _INDEX_NOT_FOUND:  # another machine was quicker
                raise


async def check_migrated(database: Database, collections: Sequence[Collection]) -> None:
    """Raises ConfigurationError that names the first index or validator that is missing or different.

    Also for a database that is only half restored. A collection that a newer version has migrated is taken as it is.
    """
    present = {info["name"]: info async for info in await database.list_collections()}
    if RESTORING in present:
        raise ConfigurationError(
            f'Database "{database.name}" holds half of a backup: run "callboard restore" again.'
        )
    for wanted in collections:
        if wanted.name not in present:
            raise ConfigurationError(_run_migrate(database, f"the collection {wanted.name}"))
        validator = present[wanted.name].get("options", {}).get("validator", {})
        if _version(validator) > wanted.version:
            continue
        if validator != _validator(wanted):
            raise ConfigurationError(_run_migrate(database, f"the present validator of {wanted.name}"))
        indexes = await database[wanted.name].index_information()
        for index in wanted.indexes:
            name = index.document["name"]
            if name not in indexes:
                raise ConfigurationError(_run_migrate(database, f"the index {name} of {wanted.name}"))
            if different := _differences(indexes[name], index):
                lacks = f"the present index {name} of {wanted.name} (it has {different})"
                raise ConfigurationError(_run_migrate(database, lacks))


def _validator(wanted: Collection) -> Document:
    if wanted.schema is None and wanted.version == 1:
        return {}
    return {"$jsonSchema": {**(wanted.schema or {}), "description": f"{_VERSION}{wanted.version}"}}


def _version(validator: Mapping[str, Any]) -> int:
    """Which version of Callboard's collection a validator belongs to; 0 when it does not say."""
    description = validator.get("$jsonSchema", {}).get("description", "")
    number = description.removeprefix(_VERSION)
    return int(number) if number != description and number.isdecimal() else 0


def _differences(found: Mapping[str, Any] | None, wanted: IndexModel) -> str:
    """Which options of an index that is there are others than those wanted, for people."""
    if found is None:
        return ""
    document = wanted.document
    options = {
        "keys": (list(found["key"]), list(document["key"].items())),
        "unique": (bool(found.get("unique")), bool(document.get("unique"))),
        "partialFilterExpression": tuple(one.get("partialFilterExpression") for one in (found, document)),
        "expireAfterSeconds": tuple(one.get("expireAfterSeconds") for one in (found, document)),
    }
    return ", ".join(
        f"{name} {present} instead of {wanted}"
        for name, (present, wanted) in options.items()
        if present != wanted
    )


async def wait_until_migrated(
    database: Database, collections: Sequence[Collection], limits: StorageLimits
) -> None:
    """`check_migrated` for a service that starts."""
    await when_there(lambda: check_migrated(database, collections), limits)


async def when_there(work: Callable[[], Awaitable[None]], limits: StorageLimits) -> None:
    """For a service that starts: one that is there before MongoDB, or while it is slow, waits for it, for a while.

    Let `work` be safe to repeat.
    """
    deadline = time.monotonic() + limits.start_seconds
    while True:
        try:
            return await work()
        except PyMongoError as error:
            if not is_outage(error) or time.monotonic() > deadline:
                raise
            logger.warning("the start waits for MongoDB: %s", type(error).__name__)
        await asyncio.sleep(limits.start_poll_seconds)


def _run_migrate(database: Database, missing: str) -> str:
    return f'Database "{database.name}" lacks {missing}: run "callboard migrate".'
