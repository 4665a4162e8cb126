"""What must agree in the databases of two services, and how what does not is mended.

Each comparison reads both sides in the order of an index, and keeps no more than a batch in memory.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, runtime_checkable

from pymongo import ASCENDING

from accounts.repository import ACCOUNTS, LEDGER
from certifications.models import Record
from certifications.repository import CERTIFICATIONS
from common.actors import Actor
from common.events import CertificationGranted, CertificationRevoked, Event, new_id
from common.mongo import Database, Document, Documents, Session, transaction
from common.outbox import OUTBOX
from shifts.models import Shift
from shifts.repository import MEMBERS, SHIFTS

_PEOPLE_AT_ONCE = 1_000
_READ_AT_ONCE = 10_000
_NAMES_AT_ONCE = 100
"""MongoDB compares each row that it finds with every one of them."""

Databases = Mapping[str, Database]
Pair = tuple[Any, Any, Any]
"""A key, and what either side has of it; None for nothing."""

Left = TypeVar("Left")
Right = TypeVar("Right")


class Comparison(Protocol):
    """Two records of the same things."""

    what: str

    async def size(self) -> int:
        """About how many pairs there are."""

    def pairs(self, keys: Sequence[Any] | None = None) -> AsyncIterator[Pair]:
        """Every pair, or those of the given keys, by rising key."""

    def count(self, pair: Pair) -> Mapping[str, int]:
        """What the report counts, and how much of it the pair is."""

    def differences(self, pair: Pair) -> list[str]:
        """What does not agree, in sentences."""


@runtime_checkable
class Mending(Comparison, Protocol):
    """A comparison of what can be mended."""

    async def mend(self, pairs: Sequence[Pair]) -> int:
        """Mend what differs, where that can be done; answers how many were. Safe to repeat."""


@runtime_checkable
class Publishing(Mending, Protocol):
    """A comparison that mends by publishing events again, by the outbox of `publishes_from`."""

    publishes_from: str

    async def sent_at(self, pairs: Sequence[Pair]) -> Mapping[Any, Mapping[str, datetime]]:
        """By key and by the consumer that lacks the event: when it was sent last, as far as its owner knows."""


class LedgerOfShifts:
    """Every shift has its ledger entry, of the same person and points, and every entry its shift.

    A shift without one is published again. Read by `_id` on both sides.
    """

    what = "shifts"
    publishes_from = "shifts"

    def __init__(self, databases: Databases) -> None:
        self._shifts = databases["shifts"][SHIFTS.name]
        self._outbox = databases["shifts"][OUTBOX.name]
        self._ledger = databases["accounts"][LEDGER.name]

    async def size(self) -> int:
        """About how many shifts there are."""
        return await self._shifts.estimated_document_count()

    async def pairs(self, keys: Sequence[Any] | None = None) -> AsyncIterator[Pair]:
        """By id: the shift and the ledger entry."""
        these = {} if keys is None else {"_id": {"$in": keys}}
        async for pair in side_by_side(
            in_order(self._shifts, ["_id"], these, ["user", "points"]),
            in_order(self._ledger, ["_id"], {**these, "reason": "shift"}, ["user", "points"]),
        ):
            yield pair

    def count(self, pair: Pair) -> Mapping[str, int]:
        """How many shifts and ledger entries the pair is."""
        _, shift, entry = pair
        return {"shifts": shift is not None, "ledger_entries": entry is not None}

    def differences(self, pair: Pair) -> list[str]:
        """What does not agree, in sentences."""
        shift_id, shift, entry = pair
        if shift is None:
            return [f"Ledger entry {shift_id} has no shift."]
        if entry is None:
            return [f"Shift {shift_id} of person {shift['user']} is not in the ledger."]
        if (shift["user"], shift["points"]) != (entry["user"], entry["points"]):
            return [
                f"Shift {shift_id} pays {shift['points']} points to person {shift['user']}, "
                f"its ledger entry {entry['points']} to person {entry['user']}."
            ]
        return []

    async def sent_at(self, pairs: Sequence[Pair]) -> Mapping[Any, Mapping[str, datetime]]:
        """When the event of each shift without an entry was sent."""
        sent = await _sent_at(self._outbox, [shift_id for shift_id, _, entry in pairs if entry is None])
        return {shift_id: {"accounts": at} for shift_id, at in sent.items()}

    async def mend(self, pairs: Sequence[Pair]) -> int:
        """Publish the shifts that have no entry."""
        missing = [shift_id for shift_id, _, entry in pairs if entry is None]
        shifts = [Shift.from_document(found) async for found in self._shifts.find({"_id": {"$in": missing}})]
        return await _publish_again(self._outbox, {shift.id: shift.logged() for shift in shifts})


class TotalsOfLedger:
    """Every account has the points that its ledger entries add up to.

    A total that has not is set to their sum. Accounts are read by `one_per_user`, a range at a time, and the
    ledger entries of that range by `by_user`.
    """

    what = "totals"

    def __init__(self, databases: Databases) -> None:
        self._database = databases["accounts"]
        self._accounts = self._database[ACCOUNTS.name]
        self._ledger = self._database[LEDGER.name]

    async def size(self) -> int:
        """About how many accounts there are."""
        return await self._accounts.estimated_document_count()

    async def pairs(self, keys: Sequence[Any] | None = None) -> AsyncIterator[Pair]:
        """By user: the account, and the points that the ledger adds up to."""
        async for users in self._ranges(keys):
            async for pair in side_by_side(
                in_order(self._accounts, ["id"], {"id": users}, ["points"]), self._sums(users)
            ):
                yield pair

    def count(self, pair: Pair) -> Mapping[str, int]:
        """How many people with how many points the pair is."""
        _, account, _ = pair
        return {"people": 1, "points": account["points"]} if account else {}

    def differences(self, pair: Pair) -> list[str]:
        """What does not agree, in sentences."""
        user, account, earned = pair
        has, earned = account["points"] if account else 0, earned or 0
        return (
            [] if has == earned else [f"Person {user} has {has} points, but the ledger adds up to {earned}."]
        )

    async def mend(self, pairs: Sequence[Pair]) -> int:
        """Set the totals to what the ledger adds up to."""
        return sum([await self._correct(user) for user, _, _ in pairs])

    async def _correct(self, user: int) -> bool:
        """Whether the total had to be set.

        Whoever adds a ledger entry in the meantime writes the same account, so that one of the two
        transactions runs again: no entry is left out, and none is counted twice.
        """

        async def work(session: Session) -> bool:
            account = await self._accounts.find_one({"id": user}, session=session)
            earned = sum([points async for _, points in self._sums(user, session)])
            if earned == (account["points"] if account else 0):
                return False
            await self._accounts.update_one(
                {"id": user},
                {"$set": {"points": earned}, "$setOnInsert": {"created_at": datetime.now(UTC)}},
                upsert=True,
                session=session,
            )
            return True

        return await transaction(self._database, work)

    async def _ranges(self, keys: Sequence[Any] | None) -> AsyncIterator[Document]:
        """Conditions of which every user meets one, and no more accounts than are read at once."""
        if keys is not None:
            yield {"$in": keys}
            return
        above: Document = {"$gt": 0}
        while True:
            beyond = self._accounts.find({"id": above}, ["id"]).sort("id", ASCENDING)
            last = await beyond.skip(_PEOPLE_AT_ONCE - 1).limit(1).to_list()
            if not last:
                yield above
                return
            yield {**above, "$lte": last[0]["id"]}
            above = {"$gt": last[0]["id"]}

    async def _sums(self, users: Any, session: Session | None = None) -> AsyncIterator[tuple[int, int]]:
        pipeline: list[Mapping[str, Any]] = [
            {"$match": {"user": users}},
            {"$group": {"_id": "$user", "points": {"$sum": "$points"}}},
            {"$sort": {"_id": ASCENDING}},
        ]
        async with await self._ledger.aggregate(pipeline, session, allowDiskUse=True) as sums:
            async for found in sums:
                yield found["_id"], found["points"]


class CopiesOfCertifications:
    """Accounts and shifts know of each certification what certifications does.

    What a copy knows in an older version, or not at all, is published again. Read by `one_per_user_and_code`,
    `one_per_user` and, in shifts, `_id`.
    """

    what = "certifications"
    publishes_from = "certifications"

    def __init__(self, databases: Databases) -> None:
        self._records = databases["certifications"][CERTIFICATIONS.name]
        self._outbox = databases["certifications"][OUTBOX.name]
        self._accounts = databases["accounts"][ACCOUNTS.name]
        self._members = databases["shifts"][MEMBERS.name]

    async def size(self) -> int:
        """About how many people hold certifications, or did."""
        return await self._members.estimated_document_count()

    async def pairs(self, keys: Sequence[Any] | None = None) -> AsyncIterator[Pair]:
        """By user: what certifications knows by code, and what the others know by service and code."""
        these = None if keys is None else {"$in": keys}
        copies = side_by_side(
            self._copies(self._accounts, "id", these), self._copies(self._members, "_id", these)
        )
        both = ((user, {"accounts": one or {}, "shifts": other or {}}) async for user, one, other in copies)
        async for pair in side_by_side(self._held(these), both):
            yield pair

    def count(self, pair: Pair) -> Mapping[str, int]:
        """How many certifications are held."""
        _, held, _ = pair
        return {"certifications": sum(known["held"] for known in (held or {}).values())}

    def differences(self, pair: Pair) -> list[str]:
        """What does not agree, in sentences."""
        user, held, copies = pair
        return [
            f"Certification {code} of person {user}: certifications has {_told(known)}, "
            f"{service} has {_told(copy)}."
            for service, code, known, copy in _compared(held, copies)
        ]

    async def sent_at(self, pairs: Sequence[Pair]) -> Mapping[Any, Mapping[str, datetime]]:
        """When what a copy lacks was sent: when it changed, or was last published again."""
        lacking = [
            (user, code, known["version"], service)
            for user, held, copies in pairs
            for service, code, known, copy in _compared(held, copies)
            if known and (copy is None or copy["version"] < known["version"])
        ]
        users = {"$in": [user for user, *_ in lacking]}
        records = [Record.model_validate(found) async for found in self._records.find({"user": users})]
        sent = {
            _name(record.user, record.code, record.version): record.changed_at
            for record in records
            if record.changed_at is not None
        }
        sent |= await _sent_at(self._outbox, [_name(*which) for *which, _ in lacking])
        found: dict[Any, dict[str, datetime]] = {}
        for user, code, version, service in lacking:
            if at := sent.get(_name(user, code, version)):
                latest = found.setdefault(user, {})
                latest[service] = max(at, latest.get(service, at))
        return found

    async def mend(self, pairs: Sequence[Pair]) -> int:
        """Publish what a copy knows in an older version, or not at all."""
        behind = {
            (user, code)
            for user, held, copies in pairs
            for _, code, known, copy in _compared(held, copies)
            if known and (copy is None or copy["version"] < known["version"])
        }
        users = {"$in": [user for user, _ in behind]}
        names = {
            account["id"]: account["username"]
            async for account in self._accounts.find({"id": users, "username": {"$exists": True}})
        }
        records = [Record.model_validate(found) async for found in self._records.find({"user": users})]
        return await _publish_again(
            self._outbox,
            {
                _name(record.user, record.code, record.version): _changed(
                    record, names.get(record.user, str(record.user))
                )
                for record in records
                if (record.user, record.code) in behind
            },
        )

    async def _held(self, users: Document | None) -> AsyncIterator[tuple[int, Document]]:
        """Each user's certifications by code."""
        where = {} if users is None else {"user": users}
        last: int | None = None
        codes: Document = {}
        async for user, record in in_order(self._records, ["user", "code"], where, ["held", "version"]):
            if user != last:
                if last is not None:
                    yield last, codes
                last, codes = user, {}
            codes[record["code"]] = {"held": record["held"], "version": record["version"]}
        if last is not None:
            yield last, codes

    async def _copies(
        self, collection: Documents, key: str, users: Document | None
    ) -> AsyncIterator[tuple[int, Document]]:
        where = {} if users is None else {key: users}
        async for user, found in in_order(collection, [key], where, ["certifications"]):
            yield (
                user,
                {
                    code: {"held": known["held"], "version": known["version"]}
                    for code, known in found.get("certifications", {}).items()
                },
            )


def _compared(held: Document | None, copies: Document | None) -> list[tuple[str, str, Any, Any]]:
    """Where they differ: service, code, what certifications knows, what the service does."""
    owned = held or {}
    return [
        (service, code, owned.get(code), known.get(code))
        for service, known in (copies or {"accounts": {}, "shifts": {}}).items()
        for code in sorted({*owned, *known})
        if owned.get(code) != known.get(code)
    ]


def _told(known: Document | None) -> str:
    if known is None:
        return "nothing"
    return f"version {known['version']} ({'held' if known['held'] else 'not held'})"


def _changed(record: Record, username: str) -> CertificationGranted | CertificationRevoked:
    """The event of the certification's last change."""
    fact = CertificationGranted if record.held else CertificationRevoked
    by = (record.granted_by if record.held else record.revoked_by) or ""
    via = record.granted_via if record.held else record.revoked_via
    return fact(
        occurred_at=record.changed_at or datetime.now(UTC),
        user=record.user,
        username=username,
        certification=record.code,
        version=record.version,
        moderator=by,
        actor=Actor(by=by, via=via) if by.startswith(("discord:", "roblox:")) else None,
    )


def _name(user: int, code: str, version: int) -> str:
    """What the rows of a certification that is published again are called by."""
    return f"again-{user}-{code}-{version}"


async def _sent_at(outbox: Documents, names: Sequence[str]) -> dict[str, datetime]:
    """When each event was last sent, or published again, as far as the outbox still knows; by the row's name."""
    latest: dict[str, datetime] = {}
    for first in range(0, len(names), _NAMES_AT_ONCE):
        some = {*names[first : first + _NAMES_AT_ONCE]}
        begin = [re.compile(f"^{re.escape(name)}") for name in some]
        async for row in outbox.find({"_id": {"$in": begin}}, ["sent_at"]):
            name = row["_id"] if row["_id"] in some else row["_id"].rpartition("-")[0]
            at = row.get("sent_at") or datetime.now(UTC)  # it will be sent in a moment
            latest[name] = max(at, latest.get(name, at))
    return latest


async def _publish_again(outbox: Documents, events: Mapping[str, Event]) -> int:
    """Put events into their owner's outbox anew, in rows of these names; answers how many.

    What is in an outbox outlives a crash and an outage of NATS, and the relay sends it as it sends all. The
    row has an id of its own: for two minutes, JetStream would take the event's for a repeat of what it had
    then. Whoever has handled the event ignores it.
    """
    if events:
        await outbox.insert_many(
            [
                {
                    "_id": f"{name}-{new_id()}",
                    "subject": event.SUBJECT,
                    "payload": event.model_dump_json().encode(),
                    "created_at": datetime.now(UTC),
                    "sent": False,
                }
                for name, event in events.items()
            ]
        )
    return len(events)


async def in_order(
    collection: Documents, keys: Sequence[str], where: Document, fields: Sequence[str]
) -> AsyncIterator[tuple[Any, Document]]:
    """Each matching document by the first key, in rising order of the keys, which together are unique.

    Page by page, for MongoDB ends a cursor when all that it did for it took as long as a single read may take.
    """
    later: Document = {}
    while True:
        found = collection.find({"$and": [where, later]}, [*keys, *fields], batch_size=_READ_AT_ONCE)
        page = await found.sort([(key, ASCENDING) for key in keys]).limit(_READ_AT_ONCE).to_list()
        for document in page:
            yield document[keys[0]], document
        if len(page) < _READ_AT_ONCE:
            return
        same = [{key: page[-1][key] for key in keys[:place]} for place in range(len(keys))]
        later = {"$or": [{**rest, key: {"$gt": page[-1][key]}} for key, rest in zip(keys, same, strict=True)]}


async def side_by_side(
    left: AsyncIterator[tuple[Any, Left]], right: AsyncIterator[tuple[Any, Right]]
) -> AsyncIterator[tuple[Any, Left | None, Right | None]]:
    """Two ordered streams as one: each key once, with what either side has of it."""
    one, other = await anext(left, None), await anext(right, None)
    while one or other:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None  # noqa: S101 - one of them is there
            yield one[0], one[1], None
            one = await anext(left, None)
        elif one is None or other[0] < one[0]:
            yield other[0], None, other[1]
            other = await anext(right, None)
        else:
            yield one[0], one[1], other[1]
            one, other = await anext(left, None), await anext(right, None)
