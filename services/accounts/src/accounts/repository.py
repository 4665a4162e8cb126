"""The only MongoDB calls of accounts, and the shape of their collections."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, InsertOne, ReplaceOne, UpdateMany, UpdateOne

from accounts.models import Account, LocalPerson
from common.bus import DEAD_LETTERS
from common.events import CertificationGranted, CertificationRevoked, ShiftLogged
from common.mongo import Collection, Database, Document, Session
from common.outbox import OUTBOX

_WHOLE = {"bsonType": ["int", "long"]}

ACCOUNTS = Collection(
    "accounts",
    indexes=(
        IndexModel([("id", ASCENDING)], name="one_per_user", unique=True),
        IndexModel([("username_key", ASCENDING), ("_id", DESCENDING)], name="newest_by_username"),
    ),
    schema={
        "bsonType": "object",
        "required": ["id", "points"],
        "properties": {"id": _WHOLE, "points": _WHOLE, "rankid": _WHOLE},
    },
)
PEOPLE = Collection(
    "people",
    indexes=(
        IndexModel([("username_key", ASCENDING)], name="one_per_username", unique=True),
        IndexModel(
            [("discord", ASCENDING)],
            name="one_per_discord",
            unique=True,
            partialFilterExpression={"discord": {"$type": "number"}},
        ),
    ),
    schema={
        "bsonType": "object",
        "required": ["_id", "username", "username_key", "rankid"],
        "properties": {"_id": _WHOLE, "username": {"bsonType": "string"}, "rankid": _WHOLE},
    },
)
LEDGER = Collection(
    "ledger",
    indexes=(IndexModel([("user", ASCENDING), ("at", ASCENDING)], name="by_user"),),
    schema={
        "bsonType": "object",
        "required": ["_id", "user", "points", "reason", "ref", "at", "by"],
        "properties": {"_id": {"bsonType": "string"}, "user": _WHOLE, "points": _WHOLE},
    },
)

COLLECTIONS = (ACCOUNTS, PEOPLE, LEDGER, OUTBOX, DEAD_LETTERS)


def username_key(username: str) -> str:
    """What usernames are compared by."""
    return username.casefold()


class Accounts:
    """Accounts and their ledger."""

    def __init__(self, database: Database) -> None:
        self._accounts = database[ACCOUNTS.name]
        self._ledger = database[LEDGER.name]

    async def by_ids(self, users: Sequence[int]) -> list[Account | None]:
        """The account of each user, in the same order."""
        found = {document["id"]: document async for document in self._accounts.find({"id": {"$in": users}})}
        return [Account.from_document(found[user]) if user in found else None for user in users]

    async def by_username(self, username: str) -> Account | None:
        """The account that was last known by this name, in any case."""
        found = await self._accounts.find_one(
            {"username_key": username_key(username)}, sort=[("_id", DESCENDING)]
        )
        return Account.from_document(found) if found else None

    async def adopt_username(self, user: int, username: str) -> None:
        """Note the username of an account that has none yet."""
        await self._accounts.update_one(
            {"id": user, "username": {"$exists": False}},
            {"$set": {"username": username, "username_key": username_key(username)}},
        )

    async def adopt_rank(self, user: int, rankid: int) -> None:
        """Note the rank of an account that has none yet."""
        await self._accounts.update_one(
            {"id": user, "rankid": {"$exists": False}}, {"$set": {"rankid": rankid}}
        )

    async def find(self, session: Session, user: int) -> Account | None:
        """The account, as the transaction sees it."""
        found = await self._accounts.find_one({"id": user}, session=session)
        return Account.from_document(found) if found else None

    async def existing(self, session: Session, users: Sequence[int]) -> set[int]:
        """Which of these users have an account."""
        found = self._accounts.find(
            {"id": {"$in": users}}, {"_id": False, "id": True}, batch_size=len(users) + 1, session=session
        )
        return {document["id"] for document in await found.to_list()}

    async def set_rank(self, session: Session, user: int, rankid: int, version: int) -> None:
        """Set the rank of a user, who gets an account where there is none."""
        await self._accounts.update_one(
            {"id": user},
            {"$set": {"rankid": rankid, "rank_version": version}, "$setOnInsert": _new_account()},
            upsert=True,
            session=session,
        )

    async def rename(self, session: Session, user: int, username: str) -> None:
        """Set the username of an account, where there is one."""
        await self._accounts.update_one(
            {"id": user},
            {"$set": {"username": username, "username_key": username_key(username)}},
            session=session,
        )

    async def recorded(self, session: Session, entries: Iterable[str]) -> set[str]:
        """Which of these ledger entries there are already."""
        found = self._ledger.find({"_id": {"$in": list(entries)}}, {"_id": True}, session=session)
        return {document["_id"] for document in await found.to_list()}

    async def record(self, session: Session, shifts: Sequence[ShiftLogged]) -> None:
        """Write a ledger entry for each shift, and add each person's sum to the total.

        Raises BulkWriteError when one of them has its entry already.
        """
        await self._ledger.bulk_write([InsertOne(_entry(shift)) for shift in shifts], session=session)
        sums: dict[int, int] = {}
        for shift in shifts:
            sums[shift.user] = sums.get(shift.user, 0) + shift.points
        users: dict[int, list[int]] = {}
        for user, points in sums.items():
            users.setdefault(points, []).append(user)
        # One update for all with the same sum: measured, one for each person takes MongoDB three times as long.
        added = await self._accounts.bulk_write(
            [
                UpdateMany({"id": {"$in": same}}, {"$inc": {"points": points}})
                for points, same in users.items()
            ],
            session=session,
        )
        if added.matched_count < len(sums):
            known = await self.existing(session, list(sums)) if added.matched_count else set()
            await self._accounts.insert_many(
                [
                    {**_new_account(), "id": user, "points": points}
                    for user, points in sums.items()
                    if user not in known
                ],
                session=session,
            )

    async def keep_newest(self, changes: Sequence[CertificationGranted | CertificationRevoked]) -> int:
        """Note certifications, each only if it is newer than what is known; answer how many were not."""
        requests: list[UpdateOne] = []
        for change in changes:
            field = f"certifications.{change.certification}"
            held = isinstance(change, CertificationGranted)
            requests += [
                UpdateOne({"id": change.user}, {"$setOnInsert": _new_account()}, upsert=True),
                UpdateOne(
                    {
                        "id": change.user,
                        "$or": [
                            {field: {"$exists": False}},
                            {f"{field}.version": {"$lt": change.version}},
                        ],
                    },
                    {"$set": {field: {"held": held, "version": change.version}}},
                ),
            ]
        result = await self._accounts.bulk_write(requests)
        return len(changes) - result.modified_count


class People:
    """What the local plugins know."""

    def __init__(self, database: Database) -> None:
        self._people = database[PEOPLE.name]

    async def by_ids(self, users: Sequence[int]) -> list[Document | None]:
        """The person of each id, in the same order."""
        found = {document["_id"]: document async for document in self._people.find({"_id": {"$in": users}})}
        return [found.get(user) for user in users]

    async def by_username(self, username: str) -> Document | None:
        """The person of this name, in any case."""
        return await self._people.find_one({"username_key": username_key(username)})

    async def by_discord(self, discord: int) -> Document | None:
        """The person with this Discord account."""
        # With $type, MongoDB sees that its partial index holds all that can match; else it reads everybody.
        return await self._people.find_one({"discord": {"$eq": discord, "$type": "number"}})

    async def add(self, user: int, username: str, rankid: int, discord: int | None) -> None:
        """Add a person, unless this id is known."""
        await self._people.update_one(
            {"_id": user}, {"$setOnInsert": _person(username, rankid, discord)}, upsert=True
        )

    async def put_all(self, session: Session, people: Sequence[tuple[LocalPerson, int]]) -> None:
        """Add people with their rankids, or change all that is known of them. Raises BulkWriteError."""
        await self._people.bulk_write(
            [
                ReplaceOne({"_id": person.id}, _person(person.username, rankid, person.discord), upsert=True)
                for person, rankid in people
            ],
            session=session,
        )

    async def set_rank(self, user: int, rankid: int) -> bool:
        """Set a person's rank; answers whether the person is known."""
        result = await self._people.update_one({"_id": user}, {"$set": {"rankid": rankid}})
        return result.matched_count == 1


def _new_account() -> Document:
    return {"points": 0, "created_at": datetime.now(UTC)}


def _entry(shift: ShiftLogged) -> Document:
    return {
        "_id": shift.id,
        "user": shift.user,
        "points": shift.points,
        "reason": "shift",
        "ref": shift.id,
        "at": shift.occurred_at,
        "by": shift.logged_by,
    }


def _person(username: str, rankid: int, discord: int | None) -> Document:
    person: dict[str, Any] = {
        "username": username,
        "username_key": username_key(username),
        "rankid": rankid,
    }
    return person if discord is None else {**person, "discord": discord}
