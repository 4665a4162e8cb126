"""What `callboard verify` says of one person's credited seconds and carried fractions, whatever they worked."""

from fractions import Fraction
from typing import Any

from hypothesis import given, settings, strategies

from callboard.credit import carried_wrongly, credited_twice
from common.mongo import Document
from shifts.rules import pay, uncovered_seconds

USER = 7
MANY = settings(settings.get_profile("ci"), max_examples=300)

worked = strategies.lists(
    strategies.tuples(strategies.integers(0, 300), strategies.integers(1, 100)), min_size=1, max_size=8
)
"""When shifts began and how long they were, in the order in which they were recorded."""


def recorded(worked: list[tuple[int, int]], longest: int = 60) -> tuple[list[Document], Document]:
    """The person's shifts as the service records them at a seventh of a point a second, and the timesheet."""
    shifts: list[Document] = []
    carry = Fraction(0)
    for number, (start, duration) in enumerate(worked, 1):
        covered = [(one["started_at"], one["ended_at"]) for one in shifts]
        credited = min(uncovered_seconds(start, start + duration, covered), longest)
        exact = Fraction(credited, 7)
        points, left = pay(exact, carry)
        shifts.append(
            {
                "_id": f"shift-{number}",
                "started_at": start,
                "ended_at": start + duration,
                "credited_seconds": credited,
                "points": points,
                "number": number,
                "exact_points": str(exact),
                "carried": str(carry),
            }
        )
        carry = left
    return shifts, sheet(len(shifts), carry)


def sheet(shifts: int, carry: Fraction) -> Document:
    """The person's timesheet."""
    return {"shifts": shifts, "carry": {"numerator": carry.numerator, "denominator": carry.denominator}}


@MANY
@given(worked, strategies.data())
def test_nothing_is_found_in_what_the_service_records_nor_in_any_part_of_it(
    worked: list[tuple[int, int]], data: Any
) -> None:
    shifts, timesheet = recorded(worked)
    read = data.draw(strategies.lists(strategies.sampled_from(shifts), unique_by=lambda one: one["_id"]))
    for some in (shifts, read):  # while others are recorded, only a part may be read
        assert credited_twice(USER, some) == []
        assert carried_wrongly(USER, some, timesheet) == []


@MANY
@given(worked, strategies.data())
def test_a_second_more_than_the_shifts_cover_is_found(worked: list[tuple[int, int]], data: Any) -> None:
    shifts, _ = recorded(worked, longest=1000)
    data.draw(strategies.sampled_from(shifts))["credited_seconds"] += 1
    (text,) = credited_twice(USER, shifts)
    assert f"of person {USER} is credited seconds twice" in text


@MANY
@given(worked, strategies.integers(1, 6), strategies.data())
def test_a_wrong_fraction_is_found_where_it_went_wrong(
    worked: list[tuple[int, int]], sevenths: int, data: Any
) -> None:
    shifts, timesheet = recorded(worked)
    at = data.draw(strategies.integers(0, len(shifts)))
    if at == len(shifts):
        right = Fraction(timesheet["carry"]["numerator"], timesheet["carry"]["denominator"])
        (text,) = carried_wrongly(USER, shifts, sheet(len(shifts), (right + Fraction(sevenths, 7)) % 1))
        assert text.startswith(f"The timesheet of person {USER} carries")
    else:
        wrong = (Fraction(shifts[at]["carried"]) + Fraction(sevenths, 7)) % 1
        shifts[at]["carried"] = str(wrong)
        assert f"Shift {shifts[at]['_id']} of person {USER} carries {wrong} points" in "".join(
            carried_wrongly(USER, shifts, timesheet)
        )


def test_two_shifts_recorded_at_once_and_points_that_were_not_earned_are_found() -> None:
    shifts, timesheet = recorded([(0, 10), (100, 10), (200, 10)])
    again = {**shifts[2], "_id": "shift-4"}
    assert carried_wrongly(USER, [*shifts, again], timesheet) == [
        f"Shifts shift-3 and shift-4 of person {USER} both have the number 3."
    ]
    shifts[1]["points"] += 1
    assert carried_wrongly(USER, shifts, timesheet) == [
        f"Shift shift-2 of person {USER} pays 2 points: with the carried 3/7, its exact 10/7 points make 1."
    ]


def test_a_history_that_began_before_exact_points_is_judged_from_where_they_begin() -> None:
    shifts, timesheet = recorded([(0, 10), (100, 10), (200, 10), (300, 10)])
    for name in ("number", "exact_points", "carried"):
        del shifts[0][name], shifts[2][name]  # the third, by an old replica during a rollout
    assert carried_wrongly(USER, shifts, timesheet) == []
    assert len(carried_wrongly(USER, shifts, sheet(4, Fraction(1, 2)))) == 1
