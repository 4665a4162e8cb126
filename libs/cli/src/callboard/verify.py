"""Is every shift counted exactly once? Shifts, ledger and totals are compared, one by one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymongo
from pymongo import ASCENDING

from accounts.repository import ACCOUNTS, LEDGER
from callboard.access import open_database
from callboard.databases import DATABASES
from common.bus import DEAD_LETTERS
from common.mongo import Database, Document, Documents
from common.outbox import OUTBOX
from common.settings import Settings
from shifts.repository import SHIFTS

_PATIENCE_SECONDS = 10.0
_BATCH = 10_000
_RECHECKED = 1_000
_TOLD = 20
_LONGEST_SECONDS = 6 * 3600.0

Advance = Callable[[str, int, int], None]
"""Told what is being compared, how many are done, and of how many (about)."""

Value = TypeVar("Value")


@dataclass
class Report:
    """What was compared, and what is wrong; `differences` are sentences, the first thousand of them."""

    people: int = 0
    points: int = 0
    shifts: int = 0
    ledger_entries: int = 0
    unsent_events: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.differences or any(self.unsent_events.values()) or any(self.dead_letters.values()))

    def sentences(self) -> list[str]:
        """The report for people: what is wrong, the first of it in detail, and the sum of it all."""
        told = self.differences[:_TOLD]
        if len(self.differences) > _TOLD:
            told.append(f"... and {len(self.differences) - _TOLD} more differences.")
        for what, counts in (("unsent events", self.unsent_events), ("dead letters", self.dead_letters)):
            told += [f"{service} has {count} {what}." for service, count in counts.items() if count]
        sums = f"{self.shifts} shifts, {self.ledger_entries} ledger entries, {self.points} points of {self.people} people"
        return [*told, f"{sums}: {'all add up' if self.is_good else 'NOT in order'}."]


async def verify(settings: Settings, advance: Advance) -> Report:
    """Compare totals, ledger and shifts; wait up to ten seconds for what is under way.

    Works through the data in order and in batches, so it may be large, and Callboard may be running.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    report = Report()
    with pymongo.timeout(_LONGEST_SECONDS):
        async with AsyncExitStack() as stack:
            databases = {
                name: await stack.enter_async_context(open_database(settings, name)) for name in DATABASES
            }
            report.unsent_events = await _unsent_events(databases, deadline)
            books = _Books(databases["accounts"], databases["shifts"])
            await books.compare_shifts(report, advance)
            await books.compare_people(report, advance)
            report.differences = await books.lasting_differences(deadline)
            for name, database in databases.items():
                report.dead_letters[name] = await database[DEAD_LETTERS.name].count_documents({})
    return report


async def _unsent_events(databases: Mapping[str, Database], deadline: float) -> dict[str, int]:
    """By service, how many of the events that wait now still wait at the deadline."""
    waiting = {"sent": False, "created_at": {"$lte": datetime.now(UTC)}}
    while True:
        unsent = {
            name: await database[OUTBOX.name].count_documents(waiting) for name, database in databases.items()
        }
        if not any(unsent.values()) or time.monotonic() > deadline:
            return unsent
        await asyncio.sleep(0.1)


class _Books:
    """The documents to compare, and what was found to differ."""

    def __init__(self, accounts: Database, shifts: Database) -> None:
        self._accounts = accounts[ACCOUNTS.name]
        self._ledger = accounts[LEDGER.name]
        self._shifts = shifts[SHIFTS.name]
        self._differing_shifts: dict[str, str] = {}
        self._differing_people: dict[int, str] = {}

    async def compare_shifts(self, report: Report, advance: Advance) -> None:
        """Every shift has its ledger entry, of the same person and points, and every entry its shift."""
        total = await self._shifts.estimated_document_count()
        async for shift_id, shift, entry in _side_by_side(
            _in_order(self._shifts, "_id", {}, ("user", "points")),
            _in_order(self._ledger, "_id", {"reason": "shift"}, ("user", "points")),
        ):
            report.shifts += shift is not None
            report.ledger_entries += entry is not None
            if difference := _compare_shift(shift_id, shift, entry):
                self._note(self._differing_shifts, shift_id, difference)
            if report.shifts % _BATCH == 0:
                advance("shifts", report.shifts, total)
        advance("shifts", report.shifts, report.shifts)

    async def compare_people(self, report: Report, advance: Advance) -> None:
        """Every account has the points that its ledger entries add up to."""
        total = await self._accounts.estimated_document_count()
        async for user, account, entries in _side_by_side(
            _in_order(self._accounts, "id", {}, ("points",)), self._sums({})
        ):
            report.people += account is not None
            report.points += account["points"] if account else 0
            if difference := _compare_person(user, account, entries):
                self._note(self._differing_people, user, difference)
            if report.people % _BATCH == 0:
                advance("people", report.people, total)
        advance("people", report.people, report.people)

    async def lasting_differences(self, deadline: float) -> list[str]:
        """What still differs at the deadline; what was under way when it was compared may not."""
        while True:
            await self._look_again()
            differences = [*self._differing_shifts.values(), *self._differing_people.values()]
            if not differences or time.monotonic() > deadline:
                return differences
            await asyncio.sleep(0.2)

    async def _look_again(self) -> None:
        ids, users = list(self._differing_shifts), list(self._differing_people)
        these = {"_id": {"$in": ids}}
        self._differing_shifts = {
            shift_id: difference
            async for shift_id, shift, entry in _side_by_side(
                _in_order(self._shifts, "_id", these, ("user", "points")),
                _in_order(self._ledger, "_id", these, ("user", "points")),
            )
            if (difference := _compare_shift(shift_id, shift, entry))
        }
        self._differing_people = {
            user: difference
            async for user, account, entries in _side_by_side(
                _in_order(self._accounts, "id", {"id": {"$in": users}}, ("points",)),
                self._sums({"user": {"$in": users}}),
            )
            if (difference := _compare_person(user, account, entries))
        }

    async def _sums(self, where: Mapping[str, Any]) -> AsyncIterator[tuple[int, Document]]:
        pipeline: list[Mapping[str, Any]] = [
            {"$match": where},
            {"$group": {"_id": "$user", "points": {"$sum": "$points"}}},
            {"$sort": {"_id": ASCENDING}},
        ]
        async with await self._ledger.aggregate(pipeline, allowDiskUse=True, batchSize=_BATCH) as cursor:
            async for document in cursor:
                yield document["_id"], document

    @staticmethod
    def _note(differing: dict[Any, str], key: object, difference: str) -> None:
        if len(differing) < _RECHECKED:
            differing[key] = difference


def _compare_shift(shift_id: str, shift: Document | None, entry: Document | None) -> str | None:
    if shift is None:
        return f"Ledger entry {shift_id} has no shift."
    if entry is None:
        return f"Shift {shift_id} of person {shift['user']} is not in the ledger."
    if (shift["user"], shift["points"]) != (entry["user"], entry["points"]):
        return (
            f"Shift {shift_id} pays {shift['points']} points to person {shift['user']}, "
            f"its ledger entry {entry['points']} to person {entry['user']}."
        )
    return None


def _compare_person(user: int, account: Document | None, entries: Document | None) -> str | None:
    has, earned = (account or {}).get("points", 0), (entries or {}).get("points", 0)
    return None if has == earned else f"Person {user} has {has} points, but the ledger adds up to {earned}."


async def _in_order(
    collection: Documents, key: str, where: Mapping[str, Any], fields: Iterable[str]
) -> AsyncIterator[tuple[Any, Document]]:
    """Each matching document by its key, in rising order of the key."""
    found = collection.find(where, [key, *fields], batch_size=_BATCH).sort(key, ASCENDING)
    async with found:
        async for document in found:
            yield document[key], document


async def _side_by_side(
    left: AsyncIterator[tuple[Any, Value]], right: AsyncIterator[tuple[Any, Value]]
) -> AsyncIterator[tuple[Any, Value | None, Value | None]]:
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
