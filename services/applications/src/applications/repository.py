"""The only MongoDB calls of applications, and the shape of their collections."""

from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from applications.errors import ApplicationNotFound
from applications.models import Record, Refusal
from applications.settings import ApplicationsLimits
from common.actors import Actor
from common.errors import KeyReused
from common.events import new_id
from common.idempotency import IDEMPOTENCY, REMEMBERED, Attempt
from common.mongo import Collection, Database, Document, Session

APPLICATIONS = Collection(
    "applications",
    indexes=(
        IndexModel(
            [("user", ASCENDING), ("status", ASCENDING), ("submitted_at", DESCENDING)],
            name="by_user_and_status",
        ),
        IndexModel(
            [("status", ASCENDING), ("user", ASCENDING)],
            name="one_approving_per_user",
            unique=True,
            partialFilterExpression={"status": "approving"},
        ),
        IndexModel(
            [("attempts.id", ASCENDING)],
            name="one_per_attempt",
            unique=True,
            partialFilterExpression={"attempts.id": {"$exists": True}},
        ),
    ),
    schema={
        "bsonType": "object",
        "required": ["user", "status"],
        "properties": {
            "_id": {"bsonType": "string"},
            "user": {"bsonType": ["int", "long"]},
            # Older versions wrote `failed`.
            "status": {"enum": ["submitted", "approving", "approved", "failed"]},
        },
    },
)

DOCUMENTS = Collection(
    "documents",  # without a schema, because MongoDB's error for a document that fails it quotes the document
    indexes=(IndexModel([("expires_at", ASCENDING)], name="forget_expired", expireAfterSeconds=0),),
)

COLLECTIONS = (APPLICATIONS, DOCUMENTS, IDEMPOTENCY)

_BEGINNING = 16
"""Of the 43 characters of a token: no two begin alike, and the others are more than anybody can guess."""


_OF_AN_APPROVAL = ("moderator", "moderator_via", "claimed_by", "claimed_until", "attempts")


class TakenMeanwhile(Exception):
    """Another request began an approval of this user, or one with this Idempotency-Key, since this one looked."""


class Repository:
    """Records by user, and texts by token."""

    def __init__(self, database: Database, limits: ApplicationsLimits) -> None:
        self._lease_seconds = limits.lease_seconds
        self._applications = database[APPLICATIONS.name]
        self._documents = database[DOCUMENTS.name]

    async def add_text(self, token: str, text: str, expires_at: datetime) -> None:
        """Keep a text until it expires."""
        await self._documents.insert_one({"_id": token, "text": text, "expires_at": expires_at})

    async def text(self, token: str) -> str | None:
        """The text of this token, unless it has expired; MongoDB removes it up to a minute later.

        Looked up by its beginning, as MongoDB logs what it is asked for when that takes long (decision 12).
        """
        beginning = token[:_BEGINNING]
        alike = {"$gte": beginning, "$lt": f"{beginning}~"}  # which comes after all that tokens have in them
        fresh = {"_id": alike, "expires_at": {"$gt": datetime.now(UTC)}}
        # The other index finds all that is fresh.
        found = await self._documents.find_one(fresh, hint="_id_")
        if found is None or not compare_digest(found["_id"].encode(), token.encode()):
            return None
        return str(found["text"])

    async def add(self, session: Session, record: Record) -> None:
        """Store a new record."""
        await self._applications.insert_one(
            record.model_dump(by_alias=True, exclude_defaults=True), session=session
        )

    async def url(self, application: str) -> str:
        """Where the text of this application can be read. Raises ApplicationNotFound."""
        found = await self._applications.find_one({"_id": application}, {"url": True})
        if found is None:
            raise ApplicationNotFound
        return str(found["url"])

    async def approvals_of(self, user: int, session: Session | None = None) -> list[Record]:
        """The user's approvals that are under way or done, in one order."""
        wanted = {"user": user, "status": {"$in": ["approving", "approved"]}}
        found = self._applications.find(wanted, session=session)
        records = [Record.model_validate(document) async for document in found]
        return sorted(records, key=lambda record: record.id)

    async def attempted(self, attempt: Attempt) -> Record | None:
        """The approval, under way or done, that an earlier attempt was at. Raises KeyReused."""
        found = await self._applications.find_one(
            {"attempts.id": attempt.id, "status": {"$in": ["approving", "approved"]}}
        )
        if found is None:
            return None
        record = Record.model_validate(found)
        earlier = next(one for one in record.attempts if one.id == attempt.id)
        if earlier.at <= datetime.now(UTC) - REMEMBERED:
            return None
        if earlier.fingerprint != attempt.fingerprint:
            raise KeyReused
        return record

    async def begin_approval(
        self, session: Session, user: int, actor: Actor, attempt: Attempt | None = None
    ) -> Record:
        """Make the user's latest open application, or a new record, `approving`, claimed by the caller.

        Raises TakenMeanwhile.
        """
        await self._forget_old(attempt, session)
        found = await self._claim(
            # Older versions made applications `failed` whose rank was refused: they are open.
            {"user": user, "status": {"$in": ["submitted", "failed"]}, "submitted_at": {"$exists": True}},
            {
                "$set": {
                    "status": "approving",
                    "moderator": actor.by,
                    "moderator_via": actor.via,
                    "attempts": _attempts(attempt),
                    **self._lease(),
                },
                "$setOnInsert": {"_id": new_id()},
            },
            sort=[("submitted_at", DESCENDING)],
            upsert=True,
            session=session,
        )
        return Record.model_validate(found)

    async def take_over(self, user: int, attempt: Attempt | None = None) -> Record | None:
        """Claim the user's `approving` record if its lease ran out; `attempt` is one that is not at it yet.

        Raises TakenMeanwhile.
        """
        await self._forget_old(attempt)
        found = await self._claim(
            {"status": "approving", "user": user, "claimed_until": {"$lte": datetime.now(UTC)}},
            {"$set": self._lease(), "$push": {"attempts": {"$each": _attempts(attempt)}}},
        )
        return Record.model_validate(found) if found else None

    async def release(self, record: Record) -> None:
        """End the caller's lease, so that the next may finish the record at once."""
        await self._applications.update_one(_claimed(record), {"$set": {"claimed_until": datetime.now(UTC)}})

    async def approved(self, session: Session, record: Record) -> bool:
        """End the approval, unless somebody else took the record over."""
        result = await self._applications.update_one(
            _claimed(record),
            {"$set": {"status": "approved", "decided_at": datetime.now(UTC)}},
            session=session,
        )
        return result.modified_count == 1

    async def reopen(self, record: Record, reason: str) -> None:
        """Undo the beginning of an approval whose rank was refused, unless somebody else took the record over.

        An application is open again, and says when and why it was refused. An approval without one leaves no record.
        """
        if record.submitted_at is None:
            await self._applications.delete_one(_claimed(record))
            return
        refusal = Refusal(at=datetime.now(UTC), reason=reason)
        await self._applications.update_one(
            _claimed(record),
            {
                "$set": {"status": "submitted", "refusal": refusal.model_dump()},
                "$unset": dict.fromkeys(_OF_AN_APPROVAL, ""),
            },
        )

    async def abandoned(self) -> list[int]:
        """The users whose `approving` records nobody is working on."""
        wanted = {"status": "approving", "claimed_until": {"$lte": datetime.now(UTC)}}
        return [found["user"] async for found in self._applications.find(wanted, {"user": 1})]

    async def _claim(self, wanted: Document, change: Document, **how: Any) -> Document | None:
        try:
            return await self._applications.find_one_and_update(
                wanted, change, return_document=ReturnDocument.AFTER, **how
            )
        except DuplicateKeyError:
            raise TakenMeanwhile from None

    async def _forget_old(self, attempt: Attempt | None, session: Session | None = None) -> None:
        """Free the attempt's key where it is no longer remembered, or was refused (by an older version)."""
        if attempt is None:
            return
        old = {"id": attempt.id, "at": {"$lte": datetime.now(UTC) - REMEMBERED}}
        is_over = [{"attempts": {"$elemMatch": old}}, {"status": {"$nin": ["approving", "approved"]}}]
        await self._applications.update_many(
            {"attempts.id": attempt.id, "$or": is_over},
            {"$pull": {"attempts": {"id": attempt.id}}},
            session=session,
        )

    def _lease(self) -> dict[str, Any]:
        until = datetime.now(UTC) + timedelta(seconds=self._lease_seconds)
        return {"claimed_by": new_id(), "claimed_until": until}


def _attempts(attempt: Attempt | None) -> list[Document]:
    if attempt is None:
        return []
    return [{"id": attempt.id, "fingerprint": attempt.fingerprint, "at": datetime.now(UTC)}]


def _claimed(record: Record) -> dict[str, Any]:
    return {"_id": record.id, "status": "approving", "claimed_by": record.claimed_by}
