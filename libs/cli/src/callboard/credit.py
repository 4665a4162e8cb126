"""Is no second credited twice, and is no fraction of a point lost? One person's shifts are checked at a time."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from pymongo import ASCENDING

from callboard.books import Databases, Pair, in_order, side_by_side
from common.mongo import Document
from shifts.repository import SHIFTS, TIMESHEETS
from shifts.rules import pay

_READ_AT_ONCE = 10_000
_FIELDS = (
    "user",
    "started_at",
    "ended_at",
    "credited_seconds",
    "points",
    "number",
    "exact_points",
    "carried",
)


class CreditOfShifts:
    """Each second of a person earns once, and the carried fraction is what exact points exceed whole ones by.

    Read by `by_user_and_end` and, of timesheets, `_id`; no more than a batch, or than one person's shifts, is in memory.
    What is wrong is for people to judge: nothing is mended.
    """

    what = "credit"
    publishes_from: str | None = None

    def __init__(self, databases: Databases) -> None:
        self._shifts = databases["shifts"][SHIFTS.name]
        self._timesheets = databases["shifts"][TIMESHEETS.name]

    async def size(self) -> int:
        """About how many people there are."""
        return await self._timesheets.estimated_document_count()

    async def pairs(self, keys: Sequence[Any] | None = None) -> AsyncIterator[Pair]:
        """By user: the person's shifts, and their timesheet."""
        these = None if keys is None else {"$in": keys}
        sheets = in_order(self._timesheets, ["_id"], {"_id": these} if these else {}, ["carry", "shifts"])
        async for pair in side_by_side(self._people({"user": these} if these else {}), sheets):
            yield pair

    def count(self, _: Pair) -> Mapping[str, int]:
        """Nothing that is not counted already."""
        return {}

    def differences(self, pair: Pair) -> list[str]:
        """What does not agree, in sentences."""
        user, shifts, sheet = pair
        return [*credited_twice(user, shifts or ()), *carried_wrongly(user, shifts or (), sheet)]

    async def _people(self, where: Document) -> AsyncIterator[tuple[int, Sequence[Document]]]:
        """Each person with all their shifts, by rising id."""
        later: Document = {}
        while True:
            found = self._shifts.find({"$and": [where, later]}, _FIELDS, batch_size=_READ_AT_ONCE)
            page = await found.sort("user", ASCENDING).limit(_READ_AT_ONCE).to_list()
            people = [(user, [*shifts]) for user, shifts in groupby(page, itemgetter("user"))]
            is_last = len(page) < _READ_AT_ONCE
            if not is_last:  # there may be more of the last one's
                user, _ = people.pop()
                if not people:
                    people = [(user, await self._shifts.find({"user": user}, _FIELDS).to_list())]
            for person in people:
                yield person
            if is_last:
                return
            later = {"user": {"$gt": people[-1][0]}}


def credited_twice(user: int, shifts: Iterable[Document]) -> list[str]:
    """The shift at which a person has more seconds credited than their shifts so far cover, by order of start."""
    credited = covered = reached = 0
    for shift in sorted(shifts, key=itemgetter("started_at")):
        start, end = shift["started_at"], shift["ended_at"]
        if start >= reached:  # what is credited before a gap has nothing to do with what comes after it
            credited, covered, reached = 0, end - start, end
        elif end > reached:
            covered, reached = covered + end - reached, end
        credited += shift["credited_seconds"]
        if credited > covered:
            return [
                f"Shift {shift['_id']} of person {user} is credited seconds twice: it and the shifts that it "
                f"follows on cover {covered} s, and are credited {credited} s."
            ]
    return []


def carried_wrongly(user: int, shifts: Iterable[Document], sheet: Document | None) -> list[str]:
    """Where the whole points or the fraction carried on are not those of the exact points.

    Shifts of older versions have no exact points and no number: what is carried across such a gap is not judged. Nor is
    it between a timesheet and shifts of which one was read later.
    """
    proven = [shift for shift in shifts if "number" in shift]
    proven.sort(key=itemgetter("number"))
    recorded = sheet.get("shifts") if sheet else None
    wrong: list[str] = []
    number, left, before = 0, "0", ""
    for shift in proven:
        name, carried = shift["_id"], shift["carried"]
        if shift["number"] == number:
            wrong.append(f"Shifts {before} and {name} of person {user} both have the number {number}.")
        elif shift["number"] == number + 1 and carried != left:
            of = f"shift {before} before it left {left}" if before else "and is their first"
            wrong.append(f"Shift {name} of person {user} carries {carried} points, {of}.")
        number, before = shift["number"], name
        points, left = _paid(shift["exact_points"], carried)
        if points != shift["points"]:
            wrong.append(
                f"Shift {name} of person {user} pays {shift['points']} points: with the carried {carried}, "
                f"its exact {shift['exact_points']} points make {points}."
            )
        if sheet and number == recorded and left != (carry := _carry(sheet)):
            wrong.append(
                f"The timesheet of person {user} carries {carry} points, their last shift {name} left {left}."
            )
    return wrong


def _carry(sheet: Document) -> str:
    return str(Fraction(sheet["carry"]["numerator"], sheet["carry"]["denominator"]))


@lru_cache(maxsize=10_000)
def _paid(exact_points: str, carried: str) -> tuple[int, str]:
    points, carry = pay(Fraction(exact_points), Fraction(carried))
    return points, str(carry)
