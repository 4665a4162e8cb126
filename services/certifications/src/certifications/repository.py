"""The only MongoDB calls of certifications, and the shape of their collections."""

from pymongo import ASCENDING, IndexModel

from certifications.models import Record
from common.idempotency import IDEMPOTENCY
from common.mongo import Collection, Database, Session

CERTIFICATIONS = Collection(
    "certifications",
    indexes=(
        IndexModel([("user", ASCENDING), ("code", ASCENDING)], name="one_per_user_and_code", unique=True),
    ),
    schema={
        "bsonType": "object",
        "required": ["user", "code", "held", "version"],
        "properties": {
            "user": {"bsonType": ["int", "long"]},
            "code": {"bsonType": "string"},
            "held": {"bsonType": "bool"},
            "version": {"bsonType": ["int", "long"], "minimum": 1},
        },
    },
)

COLLECTIONS = (CERTIFICATIONS, IDEMPOTENCY)


class Repository:
    """Certifications by user and code."""

    def __init__(self, database: Database) -> None:
        self._certifications = database[CERTIFICATIONS.name]

    async def find(self, session: Session, user: int, code: str) -> Record | None:
        """The record of this user and code, if the certification was ever granted."""
        found = await self._certifications.find_one({"user": user, "code": code}, session=session)
        return Record.model_validate(found) if found else None

    async def put(self, session: Session, record: Record) -> None:
        """Store the record; what a newer version keeps besides in the one before it stays."""
        await self._certifications.update_one(
            {"user": record.user, "code": record.code},
            {"$set": record.model_dump()},
            upsert=True,
            session=session,
        )

    async def all_of(self, user: int) -> list[Record]:
        """Every record of this user."""
        return [Record.model_validate(found) async for found in self._certifications.find({"user": user})]
