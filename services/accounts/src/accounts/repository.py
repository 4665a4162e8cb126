"""The only MongoDB calls of accounts, and the shape of their collections."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pymongo import (
    ASCENDING,
    DESCENDING,
    IndexModel,
    InsertOne,
    ReturnDocument,
    UpdateMany,
    UpdateOne,
)

from accounts.models import Account, CompletedSync, KnownPerson, PersonChange, Sync
from common.events import CertificationGranted, CertificationRevoked, ShiftLogged
from common.messaging.handling import are_newer
from common.mongo import Collection, Database, Document, Session

_WHOLE = {"bsonType": ["int", "long"]}

ACCOUNTS = Collection(
    "accounts",
    indexes=(
        IndexModel([("id", ASCENDING)], name="one_per_user", unique=True),
        IndexModel([("username_key", ASCENDING), ("_id", DESCENDING)], name="newest_by_username"),
        IndexModel([("rankid", ASCENDING), ("rank_read_at", ASCENDING)], name="by_rank_and_its_age"),
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
SYNCS = Collection("syncs")
ROBLOX_ROLES = Collection(
    "roblox_roles",
    schema={
        "bsonType": "object",
        "required": ["_id", "roles"],
        "properties": {"_id": _WHOLE, "roles": {"bsonType": "object", "additionalProperties": _WHOLE}},
    },
)
LINKS = Collection(
    "links",
    indexes=(IndexModel([("read_at", ASCENDING)], name="forget_old", expireAfterSeconds=30 * 86_400),),
    schema={
        "bsonType": "object",
        "required": ["_id", "user", "plugin", "read_at"],
        "properties": {
            "_id": _WHOLE,
            "user": _WHOLE,
            "plugin": {"bsonType": "string"},
            "read_at": {"bsonType": "date"},
        },
    },
)

COLLECTIONS = (ACCOUNTS, PEOPLE, LEDGER, SYNCS, ROBLOX_ROLES, LINKS)

_RANKS = "ranks"

LEASE = timedelta(seconds=30)
"""How long one step of a walk keeps other replicas away; longer than the step can take."""
LONGEST_LEASE = timedelta(minutes=5)
"""No lease lasts longer; one that seems to was taken while a clock was wrong."""

MOST_SKEW = timedelta(minutes=5)
"""How far ahead a clock may be; what is said to have happened later still, a wrong clock said."""

STALE_FOR = timedelta(seconds=60)
"""How long after a rank was set from here one that it replaced is taken for a stale copy; Roblox serves such for some 30 s."""


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

    async def note_username(self, user: int, username: str, read_at: datetime) -> None:
        """Note what the username of an account was read as, unless it was read or changed later.

        Others who had this name before are not found by it any more, and their names are due to be read again.
        """
        later = {"$gte": read_at, "$lte": datetime.now(UTC) + MOST_SKEW}
        noted = await self._accounts.update_one(
            {"id": user, "username_read_at": {"$not": later}}, {"$set": _named(username, read_at)}
        )
        if noted.matched_count:
            await self._accounts.update_many(
                {
                    "username_key": username_key(username),
                    "id": {"$ne": user},
                    "username_read_at": {"$not": later},
                },
                {"$unset": {"username_key": "", "username_read_at": ""}},
            )

    async def adopt_ranks(self, users: Sequence[int], rankid: int, read_at: datetime) -> None:
        """Note a rank of those of these accounts that have none yet."""
        await self._accounts.update_many(
            {"id": {"$in": users}, "rankid": {"$exists": False}},
            {"$set": {"rankid": rankid, "rank_read_at": read_at}},
        )

    async def confirm_ranks(
        self, users: Sequence[int], read_at: datetime, session: Session | None = None
    ) -> None:
        """Note that the ranks of these accounts were read, and are what is stored."""
        later = {"$gte": read_at, "$lte": datetime.now(UTC) + MOST_SKEW}
        await self._accounts.update_many(
            {"id": {"$in": users}, "rank_read_at": {"$not": later}},
            {"$set": {"rank_read_at": read_at}},
            session=session,
        )

    async def ranked_but_unread(self, above: int, since: datetime, but: Iterable[int]) -> int | None:
        """A user whose stored rank is above this one, and was not read since then; `but` none of these.

        Nor one whose rank was just set: what is read of them now may be a stale copy.
        """
        now = datetime.now(UTC)
        unread = {
            "rankid": {"$gt": above},
            "rank_read_at": {"$not": {"$gte": since}},
            "rank_set_at": {"$not": {"$gt": now - STALE_FOR, "$lt": now + STALE_FOR}},
        }
        found = await self._accounts.find_one({**unread, "id": {"$nin": list(but)}}, {"id": True})
        return found["id"] if found else None

    async def find(self, session: Session, users: Sequence[int]) -> dict[int, Account]:
        """Those of these users that have an account, as the transaction sees it."""
        found = self._accounts.find({"id": {"$in": users}}, batch_size=len(users) + 1, session=session)
        return {document["id"]: Account.from_document(document) for document in await found.to_list()}

    async def existing(self, session: Session | None, users: Sequence[int]) -> set[int]:
        """Which of these users have an account."""
        found = self._accounts.find(
            {"id": {"$in": users}}, {"_id": False, "id": True}, batch_size=len(users) + 1, session=session
        )
        return {document["id"] for document in await found.to_list()}

    async def set_ranks(
        self,
        session: Session,
        ranks: Sequence[tuple[int, int, int]],
        read_at: datetime,
        replaced: Mapping[int, Sequence[int]],
    ) -> None:
        """Set the ranks of users (user, rankid, version), who get an account where there is none.

        `replaced` are the ranks that a rank set from here replaces, by user; it has nobody whose rank was read.
        """
        await self._accounts.bulk_write(
            [
                UpdateOne(
                    {"id": user},
                    {
                        "$set": {"rankid": rankid, "rank_version": version, "rank_read_at": read_at}
                        | (
                            {"rank_set_at": read_at, "ranks_before": replaced[user]}
                            if user in replaced
                            else {}
                        ),
                        "$setOnInsert": _new_account(),
                    },
                    upsert=True,
                )
                for user, rankid, version in ranks
            ],
            session=session,
        )

    async def rename_all(self, session: Session, names: Mapping[int, str | None]) -> None:
        """Set the usernames of these accounts, None for one that has lost its name."""
        now = datetime.now(UTC)
        await self._accounts.bulk_write(
            [
                UpdateOne(
                    {"id": user},
                    {"$unset": dict.fromkeys(_named("", now), "")}
                    if name is None
                    else {"$set": _named(name, now)},
                )
                for user, name in names.items()
            ],
            session=session,
        )

    async def suggest_names(self, session: Session, names: Mapping[int, str]) -> None:
        """Set usernames where there are none, to be read again from whoever knows better."""
        await self._accounts.bulk_write(
            [
                UpdateOne(
                    {"id": user, "username": {"$exists": False}},
                    {"$set": {"username": name, "username_key": username_key(name)}},
                )
                for user, name in names.items()
            ],
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

    async def keep_newest(
        self, session: Session, changes: Sequence[CertificationGranted | CertificationRevoked]
    ) -> list[bool]:
        """Note certifications, each only if it is newer than what is known; answers which are."""
        users = list({change.user for change in changes})
        found = self._accounts.find(
            {"id": {"$in": users}},
            {"_id": False, "id": True, "certifications": True},
            batch_size=len(users) + 1,
            session=session,
        )
        known = {
            (document["id"], code): certification["version"]
            for document in await found.to_list()
            for code, certification in document.get("certifications", {}).items()
        }
        newer = are_newer(
            known, [((change.user, change.certification), change.version) for change in changes]
        )
        updates = [
            UpdateOne(
                {"id": change.user},
                {
                    "$set": {
                        f"certifications.{change.certification}": {
                            "held": isinstance(change, CertificationGranted),
                            "version": change.version,
                        }
                    },
                    "$setOnInsert": _new_account(),
                },
                upsert=True,
            )
            for change, is_newer in zip(changes, newer, strict=True)
            if is_newer
        ]
        if updates:
            await self._accounts.bulk_write(updates, session=session)
        return newer


class Syncs:
    """The walks through all members, of which one is under way at a time."""

    def __init__(self, database: Database) -> None:
        self._syncs = database[SYNCS.name]

    async def find(self) -> Sync:
        """How it stands."""
        return Sync.model_validate(await self._syncs.find_one({"_id": _RANKS}) or {})

    async def request(self) -> None:
        """Ask for a walk that begins from now on; once it does, `requested_at` is None."""
        change = {"$set": {"requested_at": datetime.now(UTC)}}
        await self._syncs.update_one({"_id": _RANKS}, change, upsert=True)

    async def claim(self, walker: str) -> Sync | None:
        """Take the lease, unless another walker holds it."""
        now = datetime.now(UTC)
        await self._syncs.update_one({"_id": _RANKS}, {"$setOnInsert": {"claimed_until": now}}, upsert=True)
        is_free = {"claimed_until": {"$not": {"$gt": now, "$lte": now + LONGEST_LEASE}}}
        return await self._change({"$or": [is_free, {"claimed_by": walker}]}, {"claimed_by": walker})

    async def begin(self, walker: str) -> Sync | None:
        """Begin a walk, or begin it anew; None when another took the lease over, as below."""
        start = {"began_at": datetime.now(UTC), "cursor": "", "seen": 0, "changed": 0, "missed": 0}
        return await self._change({"claimed_by": walker}, start | {"requested_at": None})

    async def advance(self, walker: str, progress: Document) -> Sync | None:
        """Note how far the walk came."""
        return await self._change({"claimed_by": walker}, progress)

    async def complete(self, walker: str, completed: CompletedSync) -> None:
        """End the walk and the lease."""
        await self._syncs.update_one(
            {"_id": _RANKS, "claimed_by": walker},
            {
                "$set": {"last": completed.model_dump()},
                "$unset": dict.fromkeys(("began_at", "cursor", "claimed_by", "claimed_until"), ""),
            },
        )

    async def _change(self, wanted: Document, values: Document) -> Sync | None:
        """Make the change where that is wanted, and keep the lease."""
        lease = {"claimed_until": datetime.now(UTC) + LEASE, "trouble": None}
        found = await self._syncs.find_one_and_update(
            {"_id": _RANKS, **wanted}, {"$set": lease | values}, return_document=ReturnDocument.AFTER
        )
        return Sync.model_validate(found) if found else None


class People:
    """What the local plugins know."""

    def __init__(self, database: Database) -> None:
        self._people = database[PEOPLE.name]

    async def by_ids(self, users: Sequence[int]) -> list[KnownPerson | None]:
        """The person of each id, in the same order."""
        found = {document["_id"]: document async for document in self._people.find({"_id": {"$in": users}})}
        return [_known(found[user]) if user in found else None for user in users]

    async def by_username(self, username: str) -> KnownPerson | None:
        """The person of this name, in any case."""
        found = await self._people.find_one({"username_key": username_key(username)})
        return _known(found) if found else None

    async def by_discord(self, discord: int) -> KnownPerson | None:
        """The person with this Discord account."""
        found = await self._people.find_one({"discord": _exactly([discord])})
        return _known(found) if found else None

    async def all(self) -> AsyncIterator[KnownPerson]:
        """Everybody, by id."""
        async for document in self._people.find().sort("_id", ASCENDING):
            yield _known(document)

    async def concerned(
        self, people: Sequence[PersonChange], session: Session | None = None
    ) -> dict[int, KnownPerson]:
        """By id: those with these ids, and who has a username or Discord account that is given to one of them."""
        wanted = {
            "_id": {"$in": [person.id for person in people]},
            "username_key": {"$in": [username_key(one.username) for one in people if one.username]},
            "discord": _exactly([person.discord for person in people if person.discord]),
        }
        found = self._people.find(
            {"$or": [{field: values} for field, values in wanted.items()]},
            batch_size=len(people) * len(wanted) + 1,
            session=session,
        )
        return {document["_id"]: _known(document) for document in await found.to_list()}

    async def ranked_above(self, rankid: int, after: int, limit: int) -> list[KnownPerson]:
        """The next so many with a rank above this one, by id."""
        wanted = {"_id": {"$gt": after}, "rankid": {"$gt": rankid}}
        found = self._people.find(wanted, batch_size=limit + 1).sort("_id", ASCENDING).limit(limit)
        return [_known(document) for document in await found.to_list()]

    async def put_all(
        self, session: Session, people: Sequence[KnownPerson], before: Mapping[int, KnownPerson]
    ) -> None:
        """Write people, of whom these were known before; names and Discord accounts may change hands among them."""
        # First all that changes hands is nobody's: MongoDB checks its unique indexes at each update.
        releasing = [
            person.id
            for person in people
            if (old := before.get(person.id))
            and (old.username, old.discord) != (person.username, person.discord)
        ]
        if releasing:
            nameless = {"$concat": [_NAMELESS, {"$toString": "$_id"}]}
            await self._people.update_many(
                {"_id": {"$in": releasing}},
                [{"$set": {"username_key": nameless}}, {"$unset": "discord"}],
                session=session,
            )
        await self._people.bulk_write([_put(person) for person in people], session=session)

    async def set_rank(self, user: int, rankid: int) -> bool:
        """Set a person's rank; answers whether the person is known."""
        result = await self._people.update_one({"_id": user}, {"$set": {"rankid": rankid}})
        return result.matched_count == 1

    async def remove(self, session: Session, user: int) -> None:
        """Forget a person."""
        await self._people.delete_one({"_id": user}, session=session)


def _named(username: str, read_at: datetime) -> Document:
    return {"username": username, "username_key": username_key(username), "username_read_at": read_at}


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


_NAMELESS = " "
"""What the key of a person without a name begins with, and no name does."""


def _known(document: Document) -> KnownPerson:
    is_nameless = document["username_key"].startswith(_NAMELESS)
    return KnownPerson(
        **{**document, "id": document["_id"], "username": None if is_nameless else document["username"]}
    )


def _put(person: KnownPerson) -> UpdateOne:
    values = person.model_dump(exclude={"id"}, exclude_none=True)
    name = person.username
    values["username"] = str(person.id) if name is None else name
    values["username_key"] = f"{_NAMELESS}{person.id}" if name is None else username_key(name)
    absent = {field: "" for field in ("discord", "configured") if field not in values}
    change = {"$set": values, "$unset": absent} if absent else {"$set": values}
    return UpdateOne({"_id": person.id}, change, upsert=True)


def _exactly(discords: Sequence[int]) -> Document:
    # With $type, MongoDB sees that its partial index holds all that can match; else it reads everybody.
    return {"$in": list(discords), "$type": "number"}
