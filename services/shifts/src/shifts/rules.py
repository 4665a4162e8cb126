"""What is a repeat, what is refused, and which seconds are new: rules that need no database."""

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from math import floor

from common.errors import InvalidQuery, KeyReused
from shifts.errors import InvalidCertification
from shifts.models import Claim, HeldCertification, Shift

MAX_AGE_SECONDS = 7 * 24 * 3600
FINEST_CARRY = 10**15
"""The largest denominator of what is carried on, as a document has 64 bits for it: a policy may answer any fraction."""


def repeats(claim: Claim, used: Shift | None, near: Sequence[Shift]) -> bool:
    """Whether the claim is a recorded shift told again.

    `used` is the shift recorded under the claim's Idempotency-Key, if any; `near` are the person's shifts
    around the claim, and those of the same given end. Raises KeyReused when the Idempotency-Key came with other parameters.
    """
    if claim.idempotency_key is not None:
        if used is None:
            return False
        if (
            used.user != claim.user
            or used.given_ended_at != claim.given_ended_at
            or not _is_same(claim, used)
        ):
            raise KeyReused
        return True
    if claim.given_ended_at is not None:
        return any(shift.given_ended_at == claim.given_ended_at and _is_same(claim, shift) for shift in near)
    return any(
        2 * overlap_seconds(claim, shift) > claim.duration and _is_same(claim, shift) for shift in near
    )


def is_certified(claim: Claim, codes: Collection[str], known: Mapping[str, HeldCertification]) -> bool:
    """Whether one of the codes opens the place: it is held, or was revoked after the shift had begun."""
    return any(code in known and known[code].was_held_after(claim.started_at) for code in codes)


def check(claim: Claim) -> None:
    """Raises what a new shift is refused for: InvalidQuery for its time, InvalidCertification."""
    if claim.given_ended_at is not None:
        age = claim.arrived_at - claim.ended_at
        if age > MAX_AGE_SECONDS:
            raise InvalidQuery("ended_at must be at most 7 days old")
    if not claim.is_certified:
        raise InvalidCertification


def pay(exact: Fraction, carried: Fraction) -> tuple[int, Fraction]:
    """The whole points that a shift pays, and the fraction that is carried on to the next."""
    total = exact + carried
    paid = floor(total)
    return paid, (total - paid).limit_denominator(FINEST_CARRY)


def overlap_seconds(claim: Claim, shift: Shift) -> int:
    """The seconds that both cover."""
    return max(0, min(claim.ended_at, shift.ended_at) - max(claim.started_at, shift.started_at))


def uncovered_seconds(start: int, end: int, covered: Sequence[tuple[int, int]]) -> int:
    """The seconds of [start, end) that lie in none of the covered intervals, which may overlap."""
    uncovered = 0
    reached = start
    for covered_start, covered_end in sorted(covered):
        if covered_start >= end:
            break
        uncovered += max(0, covered_start - reached)
        reached = max(reached, covered_end)
    return uncovered + max(0, end - reached)


def _is_same(claim: Claim, shift: Shift) -> bool:
    return (claim.place, claim.server, claim.duration, claim.training) == (
        shift.place,
        shift.server,
        shift.duration,
        shift.training,
    )
