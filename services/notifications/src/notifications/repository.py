"""The only MongoDB calls of notifications, and the shape of its collections."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from common.mongo import Collection, Database
from notifications.settings import NotificationsLimits

SENT = Collection(
    "sent",
    indexes=(
        IndexModel(
            [("at", ASCENDING)], name="forget", expireAfterSeconds=int(timedelta(days=2).total_seconds())
        ),
    ),
    schema={
        "bsonType": "object",
        "required": ["_id", "sent", "at"],
        "properties": {
            "_id": {"bsonType": "string"},
            "sent": {"bsonType": "bool"},
            "at": {"bsonType": "date"},
        },
    },
)

COLLECTIONS = (SENT,)


class Repository:
    """Which messages were sent, and which are being sent. Forgotten later than an event is of interest."""

    def __init__(self, database: Database, limits: NotificationsLimits) -> None:
        self._lease = timedelta(seconds=limits.lease_seconds)
        self._sent = database[SENT.name]

    async def sent(self, keys: Iterable[str]) -> set[str]:
        """Those of the messages that were sent."""
        where = {"_id": {"$in": list(keys)}, "sent": True}
        return {found["_id"] async for found in self._sent.find(where, projection=["_id"])}

    async def take(self, key: str) -> bool:
        """Whether the caller alone may send this message now: it was not sent, and nobody else is at it."""
        now = datetime.now(UTC)
        abandoned = {"_id": key, "sent": False, "at": {"$lt": now - self._lease}}
        try:
            await self._sent.update_one(abandoned, {"$set": {"at": now}}, upsert=True)
        except DuplicateKeyError:
            return False
        return True

    async def note_sent(self, keys: Iterable[str]) -> None:
        """Remember that these messages were sent."""
        now = datetime.now(UTC)
        await self._sent.update_many({"_id": {"$in": list(keys)}}, {"$set": {"sent": True, "at": now}})

    async def release(self, keys: Iterable[str]) -> None:
        """Let anyone send these messages that were taken."""
        await self._sent.delete_many({"_id": {"$in": list(keys)}, "sent": False})
