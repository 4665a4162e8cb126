"""The only MongoDB calls of the gateway, and the shape of its collections."""

import logging
from collections.abc import Collection as Hashes
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from common.events import new_id
from common.mongo import Collection, Database, Document, Session
from gateway.errors import NameTaken, NewerKey
from gateway.models import Key

logger = logging.getLogger(__name__)

KEYS = Collection(
    "keys",
    indexes=(
        IndexModel([("hash", ASCENDING)], name="one_per_hash", unique=True),
        IndexModel(
            [("name", ASCENDING)],
            name="one_current_per_name",
            unique=True,
            partialFilterExpression={"current": True},
        ),
        IndexModel([("changed_at", ASCENDING)], name="changed_at"),
    ),
    schema={
        "bsonType": "object",
        "required": ["hash", "prefix", "name", "scope", "current", "created_at", "created_by", "changed_at"],
        "properties": {
            "hash": {"bsonType": "binData"},
            "name": {"bsonType": "string"},
            "scope": {"enum": ["roblox", "discord", "operator"]},
            "current": {"bsonType": "bool"},
            "expires_at": {"bsonType": ["date", "null"]},
            "revoked_at": {"bsonType": ["date", "null"]},
            "changed_at": {"bsonType": "date"},
        },
    },
)

AUDIT = Collection(
    "audit",
    indexes=(IndexModel([("at", ASCENDING)], name="at"),),
    schema={"bsonType": "object", "required": ["at", "by"]},
    version=2,
)

COLLECTIONS = (KEYS, AUDIT)

_CHANGED_NOW = {"$currentDate": {"changed_at": True}}
"""By the server's clock: those of the machines that change and read keys may differ."""


class Repository:
    """Keys by name and by change, and the record of who changed them."""

    def __init__(self, database: Database) -> None:
        self._keys = database[KEYS.name]
        self._audit = database[AUDIT.name]
        self._unreadable: set[Any] = set()

    async def add(self, session: Session, key: Key) -> None:
        """Store a new key. Raises NameTaken."""
        document = key.model_dump() | {
            "hash": key.hash,
            "places": sorted(key.places),
            "networks": [str(network) for network in key.networks],
        }
        try:
            await self._keys.update_one(
                {"hash": key.hash}, {"$set": document, **_CHANGED_NOW}, upsert=True, session=session
            )
        except DuplicateKeyError:
            raise NameTaken(key.name) from None

    async def current(self, session: Session, name: str) -> Key | None:
        """The newest key of this name, unless it is revoked. Raises NewerKey where it cannot be read."""
        found = await self._keys.find_one({"name": name, "current": True}, session=session)
        if found is None:
            return None
        key = self._read(found)
        if key is None:
            raise NewerKey(name)
        return key

    async def succeed(self, session: Session, key: Key, expires_at: datetime) -> None:
        """Let another key take this one's name; this one is valid until it expires."""
        changes = {"current": False, "expires_at": expires_at}
        await self._keys.update_one({"hash": key.hash}, {"$set": changes, **_CHANGED_NOW}, session=session)

    async def revoke(self, session: Session, name: str, at: datetime) -> int:
        """Revoke every key of this name; answers how many."""
        result = await self._keys.update_many(
            {"name": name, "revoked_at": None},
            {"$set": {"current": False, "revoked_at": at}, **_CHANGED_NOW},
            session=session,
        )
        return result.modified_count

    async def note(
        self,
        session: Session | None,
        *,
        act: str,
        at: datetime,
        by: str,
        text: str,
        act_id: str | None = None,
        **more: Any,
    ) -> None:
        """Record what somebody decided: a key, or what else the operator's command does.

        `act_id` is given where it is the same when the act is repeated: it is then recorded once. Nothing ever changes
        or removes these records.
        """
        await self._audit.update_one(
            {"_id": act_id or f"{act}:{new_id()}"},
            {"$setOnInsert": {"act": act, "at": at, "by": by, "text": text, **more}},
            upsert=True,
            session=session,
        )

    async def acts(self, limit: int) -> list[Document]:
        """What was recorded, newest first; the oldest records have `action` and `name` in place of `act` and `text`."""
        return await self._audit.find().sort("at", DESCENDING).limit(limit).to_list()

    async def all(self) -> list[Key]:
        """Every key there ever was that can be read, by name, the newest of a name last."""
        found = self._keys.find().sort([("name", ASCENDING), ("created_at", ASCENDING)])
        return [key async for document in found if (key := self._read(document))]

    async def changed_since(self, moment: datetime | None) -> tuple[dict[bytes, Key | None], datetime | None]:
        """The keys changed at or after the moment (None: all), and when the latest of them was changed.

        They are by hash; one that cannot be read is None, as what limits it may be just that.
        """
        found = await self._keys.find({"changed_at": {"$gte": moment}} if moment else {}).to_list()
        latest = max((document["changed_at"] for document in found), default=None)
        return {document["hash"]: self._read(document) for document in found}, latest

    def _read(self, document: Document) -> Key | None:
        """The key, or None and, once, a line in the log: one odd document must not close the door to all others."""
        try:
            return Key.model_validate(document)
        except ValidationError as error:
            if document["_id"] not in self._unreadable:
                self._unreadable.add(document["_id"])
                fields = ", ".join(sorted({str(one["loc"][0]) for one in error.errors() if one["loc"]}))
                logger.warning(
                    "the key %s opens nothing here, as this version cannot read its %s: revoke it, or update Callboard",
                    document.get("name"),
                    fields,
                )
            return None

    async def note_use(self, hashes: Hashes[bytes], at: datetime) -> None:
        """Record that keys were used, unless another gateway did so in the last minute."""
        await self._keys.update_many(
            {
                "hash": {"$in": list(hashes)},
                "$or": [{"last_used_at": None}, {"last_used_at": {"$lte": at - timedelta(minutes=1)}}],
            },
            {"$set": {"last_used_at": at}},
        )
