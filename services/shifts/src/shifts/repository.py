"""The only MongoDB calls of shifts, and the shape of their collections."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from pymongo import ASCENDING, IndexModel, UpdateOne

from common.messaging.handling import are_newer
from common.mongo import Collection, Database, Document, Session
from shifts.models import CLOCK_SECONDS, Claim, HeldCertification, Recorded, Shift, Timesheet

_WHOLE = {"bsonType": ["int", "long"]}

SHIFTS = Collection(
    "shifts",
    indexes=(
        IndexModel([("user", ASCENDING), ("ended_at", ASCENDING)], name="by_user_and_end"),
        # A shift that lies elsewhere than its sender said; its repeat says the same, whatever the clocks say by then.
        IndexModel(
            [("user", ASCENDING), ("given_ended_at", ASCENDING)],
            name="by_user_and_given_end",
            partialFilterExpression={"flags": "clock"},
        ),
        IndexModel(
            [("idempotency_key", ASCENDING), ("key", ASCENDING)],
            name="one_per_idempotency_key",
            unique=True,
            partialFilterExpression={"idempotency_key": {"$type": "string"}},
        ),
    ),
    schema={
        "bsonType": "object",
        "required": ["_id", "user", "started_at", "ended_at", "credited_seconds", "points", "key"],
        "properties": {
            "_id": {"bsonType": "string"},
            "user": _WHOLE,
            "started_at": _WHOLE,
            "ended_at": _WHOLE,
            "credited_seconds": {**_WHOLE, "minimum": 0},
            "points": {**_WHOLE, "minimum": 0},
        },
    },
)
TIMESHEETS = Collection("timesheets")
MEMBERS = Collection("members")

COLLECTIONS = (SHIFTS, TIMESHEETS, MEMBERS)

_DAY_SECONDS = 24 * 3600
"""No shift is longer."""


class Repository:
    """Shifts, timesheets, and the copy of who holds which certification."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shifts = database[SHIFTS.name]
        self._timesheets = database[TIMESHEETS.name]
        self._members = database[MEMBERS.name]

    async def recorded(self, session: Session, claims: Sequence[Claim]) -> Recorded:
        """What bears on these claims; at most one of a user."""
        users = [claim.user for claim in claims]
        keys = [claim.idempotency_key for claim in claims if claim.idempotency_key is not None]
        # One command in place of three: measured, a shift alone takes a fifth less time, 32 at once a seventh.
        pipeline = [
            {"$documents": [{}]},
            _look_up("near", SHIFTS, {"$or": _near(claims)}),
            # With $type, MongoDB sees that its partial index holds all that can match; else it reads every shift.
            _look_up("used", SHIFTS, {"idempotency_key": {"$in": keys, "$type": "string"}}),
            _look_up("sheets", TIMESHEETS, {"_id": {"$in": users}}),
        ]
        (found,) = await (await self._database.aggregate(pipeline, session=session)).to_list()
        near: dict[int, list[Shift]] = {user: [] for user in users}
        for document in found["near"]:
            near[document["user"]].append(Shift.from_document(document))
        used = [Shift.from_document(document) for document in found["used"]]
        sheets = {user: Timesheet(user) for user in users}
        for document in found["sheets"]:
            carry = Fraction(document["carry"]["numerator"], document["carry"]["denominator"])
            sheets[document["_id"]] = Timesheet(document["_id"], carry, document.get("shifts", 0))
        return Recorded(near, {(shift.key, shift.idempotency_key): shift for shift in used}, sheets)

    async def add(self, session: Session, shifts: Sequence[Shift], sheets: Sequence[Timesheet]) -> None:
        """Store new shifts with their people's timesheets."""
        await self._shifts.insert_many([shift.to_document() for shift in shifts], session=session)
        # The counter serialises one person's shifts: MongoDB writes nothing where a $set changes nothing, and a whole
        # number of points leaves the carry as it was. With the $inc, two transactions always write the same timesheet,
        # conflict, and one of them runs again and reads what the other recorded.
        await self._timesheets.bulk_write(
            [
                UpdateOne(
                    {"_id": sheet.user},
                    {
                        "$set": {
                            "carry": {
                                "numerator": sheet.carry.numerator,
                                "denominator": sheet.carry.denominator,
                            }
                        },
                        "$inc": {"shifts": 1},
                    },
                    upsert=True,
                )
                for sheet in sheets
            ],
            session=session,
        )

    async def certifications_of(self, users: Sequence[int]) -> list[dict[str, HeldCertification]]:
        """What this service knows of each user's certifications, revoked ones included."""
        found = {document["_id"]: document async for document in self._members.find({"_id": {"$in": users}})}
        return [
            {
                code: HeldCertification.model_validate(known)
                for code, known in found.get(user, {}).get("certifications", {}).items()
            }
            for user in users
        ]

    async def keep_newest(
        self, session: Session, changes: Sequence[tuple[int, str, HeldCertification]]
    ) -> list[bool]:
        """Note certifications, each only if it is newer than what is known; answers which are."""
        users = list({user for user, _, _ in changes})
        found = self._members.find({"_id": {"$in": users}}, batch_size=len(users) + 1, session=session)
        known = {
            (document["_id"], code): certification["version"]
            for document in await found.to_list()
            for code, certification in document.get("certifications", {}).items()
        }
        newer = are_newer(known, [((user, code), held.version) for user, code, held in changes])
        updates = [
            UpdateOne(
                {"_id": user},
                {"$set": {f"certifications.{code}": held.model_dump(exclude_none=True)}},
                upsert=True,
            )
            for (user, code, held), is_newer in zip(changes, newer, strict=True)
            if is_newer
        ]
        if updates:
            await self._members.bulk_write(updates, session=session)
        return newer


def _near(claims: Sequence[Claim]) -> list[Document]:
    """Filters for the shifts near the claims: one for each day, as claims of some days are near few shifts each.

    However old a claim is, and however many shifts the person has worked since, it reads those around it.
    """
    by_day: dict[int, list[tuple[int, int, int]]] = {}
    for claim in claims:
        for start, end in _intervals(claim):
            by_day.setdefault(start // _DAY_SECONDS, []).append((claim.user, start, end))
    filters: list[Document] = []
    for day in by_day.values():
        users, starts, ends = zip(*day, strict=True)
        end = max(ends) + CLOCK_SECONDS
        filters.append(
            {
                "user": {"$in": users},
                "ended_at": {"$gt": min(starts) - CLOCK_SECONDS, "$lt": end + _DAY_SECONDS},
                "started_at": {"$lt": end},
            }
        )
    if by_end := [claim for claim in claims if _is_known_by_its_end(claim)]:
        filters.append(
            {
                "flags": "clock",
                "user": {"$in": [claim.user for claim in by_end]},
                "given_ended_at": {"$in": [claim.given_ended_at for claim in by_end]},
            }
        )
    return filters


def _intervals(claim: Claim) -> Iterator[tuple[int, int]]:
    """Where the shifts lie that cover the claim's seconds, or that it repeats."""
    yield claim.started_at, claim.ended_at
    if _is_known_by_its_end(claim) and claim.is_moved:
        # When the shift that it repeats was recorded, the clocks may have agreed.
        assert claim.given_ended_at is not None  # noqa: S101 - or it were not moved
        yield claim.given_ended_at - claim.duration, claim.given_ended_at


def _is_known_by_its_end(claim: Claim) -> bool:
    return claim.idempotency_key is None and claim.given_ended_at is not None


def _look_up(name: str, collection: Collection, match: Document) -> Document:
    return {"$lookup": {"from": collection.name, "pipeline": [{"$match": match}], "as": name}}
