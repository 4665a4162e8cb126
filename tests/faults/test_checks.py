"""The checks find what is wrong, and nothing where nothing is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.faults.checks import State, Wrong, check
from tests.faults.history import Attempt, Kind, Operation, Outcome, Told, moderator

NOW = 1_800_000_000
USER = 7
GUEST = 8
FACTS = {"grant": "certification_granted", "revoke": "certification_revoked"}


def told(
    kind: Kind, *outcomes: Outcome, number: int = 1, idempotency_key: str | None = None, **params: Any
) -> Told:
    """An operation whose requests, a second each, had these outcomes."""
    operation = Operation(f"{kind}-{number}", kind, params, idempotency_key)
    statuses: dict[Outcome, int | None] = {"ok": 200, "refused": 400, "unknown": None}
    attempts = [
        Attempt(
            f"{operation.id}.{index}",
            NOW + 10 * number + index,
            outcome,
            NOW + 10 * number + index + 1,
            statuses[outcome],
            is_replay=(kind == "log" or bool(idempotency_key)) and "ok" in outcomes[: index - 1],
        )
        for index, outcome in enumerate(outcomes, 1)
    ]
    return Told(operation, attempts)


def by(name: str) -> str:
    """Who decided, as the event of a request says; of an operation with an Idempotency-Key, by its own name."""
    return f"discord:{moderator(Operation('', 'grant', {}), Attempt(name, NOW))}"


def logged(*outcomes: Outcome, number: int = 1) -> Told:
    """A shift of ten minutes that somebody sent; those of other numbers overlap it by half."""
    ended_at = NOW - 3600 + 300 * number
    params: dict[str, Any] = {
        "id": USER,
        "place": 1001,
        "duration": 600,
        "training": False,
        "server": f"server-{number}",
    }
    return told("log", *outcomes, number=number, **params, ended_at=ended_at)


def changed(kind: Kind, *outcomes: Outcome, number: int = 1, idempotency_key: str | None = None) -> Told:
    """A grant or a revocation of `tot`."""
    params = {"username": "Worker", "certification": "tot"}
    return told(kind, *outcomes, number=number, idempotency_key=idempotency_key, **params)


def shift(number: int, credited: int) -> dict[str, Any]:
    """The document of `logged(number=number)`."""
    ended_at = NOW - 3600 + 300 * number
    return {
        "_id": f"shift-{number}",
        "user": USER,
        "place": 1001,
        "server": f"server-{number}",
        "training": False,
        "duration": 600,
        "given_ended_at": ended_at,
        "started_at": ended_at - 600,
        "ended_at": ended_at,
        "credited_seconds": credited,
        "points": credited // 60,
    }


def row(service: str, fact: str, **event: Any) -> dict[str, Any]:
    """A sent row of an outbox."""
    return {"_id": str(event), "subject": f"callboard.{service}.{fact}.v1", "sent": True, "event": event}


@dataclass
class Ended:
    """A run that ended."""

    history: list[Told]
    state: State


def good() -> Ended:
    """Two overlapping shifts, one of them sent thrice; a certification granted and revoked; an upload and its approval.

    The revocation and the upload were sent with an Idempotency-Key, and again after they were acknowledged.
    """
    history = [
        logged("unknown", "ok", "ok"),
        logged("ok", number=2),
        logged("refused", number=3),
        logged("unknown", number=4),
        changed("grant", "unknown", "refused"),
        changed("revoke", "unknown", "ok", "ok", number=2, idempotency_key="key-2"),
        told("upload", "unknown", "ok", "ok", idempotency_key="key-3", id=GUEST),
        told("approve", "unknown", "ok", id=GUEST),
    ]
    shifts = [shift(1, 600), shift(2, 300)]
    certifications = [
        row(
            "certifications",
            FACTS[kind],
            user=USER,
            certification="tot",
            version=version,
            moderator=by(name),
        )
        for version, (kind, name) in enumerate((("grant", "grant-1.1"), ("revoke", "revoke-2")), 1)
    ]
    held = {"tot": {"held": False, "version": 2}}
    state = State(
        shifts=shifts,
        ledger=[{"_id": one["_id"], "user": USER, "points": one["points"]} for one in shifts],
        accounts=[{"id": USER, "points": 15, "certifications": held}, {"id": GUEST, "points": 0}],
        members=[{"_id": USER, "certifications": held}],
        certifications=[{"user": USER, "code": "tot", "held": False, "version": 2}],
        applications=[{"user": GUEST, "status": "approved", "url": "https://park.example/1"}],
        events={
            "shifts": [row("shifts", "shift_logged", id=one["_id"]) for one in shifts],
            "certifications": certifications,
            "applications": [
                row("applications", fact, user=GUEST)
                for fact in ("application_submitted", "application_approved")
            ],
            "accounts": [row("accounts", "rank_changed", user=GUEST)],
        },
        dead_letters={"accounts": [], "shifts": []},
        profiles={
            USER: {"points": 15, "rankid": 20, "certifications": []},
            GUEST: {"points": 0, "rankid": 10, "certifications": []},
        },
    )
    return Ended(history, state)


def found(run: Ended) -> set[Wrong]:
    """The kinds of what is wrong."""
    return {finding.kind for finding in check(run.history, run.state, NOW + 100)}


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    assert found(good()) == set()


def test_an_end_by_a_wrong_clock_is_judged_by_that_clock() -> None:
    run = good()
    fast = 86_400
    for told, moved in ((run.history[0], fast), (run.history[1], 0)):
        params = {
            **told.operation.params,
            "ended_at": told.operation.params["ended_at"] + fast,
            "ahead": fast,
        }
        told.operation = replace(told.operation, params=params)
        stored = next(one for one in run.state.shifts if one["server"] == params["server"])
        assert isinstance(stored, dict)
        stored["given_ended_at"] += fast
        stored["ended_at"] += fast - moved
        stored["started_at"] += fast - moved
    assert found(run) & {Wrong.ANSWER} == {Wrong.ANSWER}  # the second lies where the clock said
    second = run.state.shifts[1]
    assert isinstance(second, dict)
    second["ended_at"] -= fast
    second["started_at"] -= fast
    assert found(run) == set()


def forget_the_shift(run: Any) -> None:
    del run.state.shifts[1], run.state.ledger[1], run.state.events["shifts"][1]
    run.state.accounts[0]["points"] = run.state.profiles[USER]["points"] = 10


def record_it_twice(run: Any) -> None:
    again = {**shift(2, 0), "_id": "again"}
    run.state.shifts.append(again)
    run.state.ledger.append({"_id": "again", "user": USER, "points": 0})
    run.state.events["shifts"].append(row("shifts", "shift_logged", id="again"))


def record_what_was_refused(run: Any) -> None:
    run.state.shifts.append(shift(3, 300))
    run.state.ledger.append({"_id": "shift-3", "user": USER, "points": 5})
    run.state.events["shifts"].append(row("shifts", "shift_logged", id="shift-3"))
    run.state.accounts[0]["points"] = run.state.profiles[USER]["points"] = 20


def credit_all_of_both(run: Any) -> None:
    run.state.shifts[1] |= {"credited_seconds": 600, "points": 10}
    run.state.ledger[1]["points"] = 10
    run.state.accounts[0]["points"] = run.state.profiles[USER]["points"] = 20


def credit_too_little(run: Any) -> None:
    run.state.shifts[1] |= {"credited_seconds": 240, "points": 4}
    run.state.ledger[1]["points"] = 4
    run.state.accounts[0]["points"] = run.state.profiles[USER]["points"] = 14


def add_the_points_again(run: Any) -> None:
    run.state.accounts[0]["points"] = run.state.profiles[USER]["points"] = 20


def lose_the_event(run: Any) -> None:
    del run.state.ledger[1], run.state.events["shifts"][1]
    run.state.accounts[0]["points"] = run.state.profiles[USER]["points"] = 10


def show_other_points(run: Any) -> None:
    run.state.profiles[USER]["points"] = 14


def let_a_copy_lag(run: Any) -> None:
    run.state.members[0]["certifications"] = {"tot": {"held": True, "version": 1}}


def forget_the_revocation(run: Any) -> None:
    del run.state.events["certifications"][1]
    held = {"tot": {"held": True, "version": 1}}
    run.state.certifications[0] |= {"held": True, "version": 1}
    run.state.accounts[0]["certifications"] = run.state.members[0]["certifications"] = held
    run.state.profiles[USER]["certifications"] = ["tot"]


def put_the_later_first(run: Any) -> None:
    run.history[4] = changed("grant", "unknown", "refused", number=3)
    run.state.events["certifications"][0]["event"]["moderator"] = by("grant-3.1")


def revoke_again_for_a_repeat(run: Any) -> None:
    facts = run.state.events["certifications"]
    held = {"tot": {"held": False, "version": 4}}
    for version, (kind, name) in enumerate((("grant", "grant-4.1"), ("revoke", "revoke-2")), 3):
        event = {**facts[0]["event"], "version": version, "moderator": by(name)}
        facts.append(row("certifications", FACTS[kind], **event))
    run.history.append(changed("grant", "ok", number=4))
    run.state.certifications[0]["version"] = 4
    run.state.accounts[0]["certifications"] = run.state.members[0]["certifications"] = held


def submit_again_for_a_repeat(run: Any) -> None:
    run.state.applications.append({"user": GUEST, "status": "submitted", "url": "https://park.example/2"})
    run.state.events["applications"].append(row("applications", "application_submitted", user=GUEST))


def lose_the_upload(run: Any) -> None:
    del run.state.applications[0]["url"], run.state.events["applications"][0]


def do_an_act_as_new_twice(run: Any) -> None:
    run.history[5].attempts[2].is_replay = False


def keep_an_event_back(run: Any) -> None:
    run.state.events["shifts"][0]["sent"] = False


def give_an_event_up(run: Any) -> None:
    run.state.dead_letters["accounts"].append({"reason": "handler failed 10 times"})


def approve_twice(run: Any) -> None:
    run.state.applications.append({"user": GUEST, "status": "approved"})


def leave_it_undecided(run: Any) -> None:
    run.state.applications[0]["status"] = "approving"


def answer_500(run: Any) -> None:
    run.history[3].attempts[0].status = 500


def acknowledge_as_new_twice(run: Any) -> None:
    run.history[0].attempts[2].is_replay = False


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (forget_the_shift, {Wrong.LOST}),
        (record_it_twice, {Wrong.TWICE}),
        (record_what_was_refused, {Wrong.ANSWER}),
        (credit_all_of_both, {Wrong.SECOND_TWICE}),
        (credit_too_little, {Wrong.LOST}),
        (add_the_points_again, {Wrong.TWICE}),
        (lose_the_event, {Wrong.LOST, Wrong.UNANNOUNCED}),
        (show_other_points, {Wrong.ANSWER}),
        (let_a_copy_lag, {Wrong.CERTIFICATION}),
        (forget_the_revocation, {Wrong.CERTIFICATION}),
        (put_the_later_first, {Wrong.CERTIFICATION}),
        (revoke_again_for_a_repeat, {Wrong.CERTIFICATION}),
        (submit_again_for_a_repeat, {Wrong.APPLICATION}),
        (lose_the_upload, {Wrong.APPLICATION}),
        (do_an_act_as_new_twice, {Wrong.TWICE}),
        (keep_an_event_back, {Wrong.LEFT_BEHIND}),
        (give_an_event_up, {Wrong.LEFT_BEHIND}),
        (approve_twice, {Wrong.APPLICATION}),
        (leave_it_undecided, {Wrong.APPLICATION}),
        (answer_500, {Wrong.ANSWER}),
        (acknowledge_as_new_twice, {Wrong.TWICE}),
    ],
    ids=lambda value: value.__name__ if callable(value) else " and ".join(sorted(value)),
)
def test_what_is_wrong_is_found_by_its_name(spoil: Callable[[Ended], None], expected: set[Wrong]) -> None:
    run = good()
    spoil(run)
    assert found(run) == expected
