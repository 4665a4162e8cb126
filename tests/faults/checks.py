"""What must hold after any faults, judged by a plain model that shares no code with the product."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

from tests.faults.history import Told

Document = Mapping[str, Any]

LONGEST_WAY_SECONDS = 90
"""From a game server to shifts, through processes that are stopped in between."""


class Wrong(StrEnum):
    """The kinds of what can be wrong."""

    LOST = "lost"
    UNANNOUNCED = "without an event"
    TWICE = "counted twice"
    SECOND_TWICE = "second credited twice"
    CERTIFICATION = "wrong certification"
    APPLICATION = "wrong application"
    ANSWER = "wrong answer"
    LEFT_BEHIND = "left behind"
    NOT_SERVED = "not served again"
    BROKEN_OFF = "broken off"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and where."""

    kind: Wrong
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class State:
    """What is in the databases, and what the API answers, once all is quiet.

    `members` is the copy of certifications in shifts, `profiles` is what /profile answers, by user.
    """

    shifts: Sequence[Document] = ()
    ledger: Sequence[Document] = ()
    accounts: Sequence[Document] = ()
    members: Sequence[Document] = ()
    certifications: Sequence[Document] = ()
    applications: Sequence[Document] = ()
    events: Mapping[str, Sequence[Document]] = field(default_factory=dict)
    dead_letters: Mapping[str, Sequence[Document]] = field(default_factory=dict)
    profiles: Mapping[int, Document] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def published(self, service: str, fact: str) -> list[Document]:
        """The contents of a service's events of one kind."""
        subject = f"callboard.{service}.{fact}.v1"
        return [row["event"] for row in self.events.get(service, ()) if row["subject"] == subject]


def check(history: Sequence[Told], state: State, ended_at: float) -> list[Finding]:
    """Everything that is wrong; `ended_at` is when the last request had long been answered (Unix s)."""
    logs = [told for told in history if told.operation.kind == "log"]
    changes = [told for told in history if told.operation.kind in ("grant", "revoke")]
    return [
        *_answers(history),
        *_shifts(logs, state, ended_at),
        *_seconds(state),
        *_points(state),
        *_certifications(changes, state),
        *_applications(history, state),
        *_events(state),
    ]


def _answers(history: Iterable[Told]) -> Iterator[Finding]:
    """Every answer is one that the contract has for this request in an outage, and never a false one."""
    for told in history:
        operation = told.operation
        for attempt in told.attempts:
            if attempt.status not in (None, 200, 400, 422, 502, 503, 504):
                yield Finding(Wrong.ANSWER, f"{attempt.name}: {attempt.status} {attempt.text}")
            if (operation.expected, attempt.outcome) in (("ok", "refused"), ("refused", "ok")):
                shown = f"{attempt.name}: {attempt.status} {attempt.text}, expected {operation.expected}"
                yield Finding(Wrong.ANSWER, shown)
        if operation.kind == "log" or operation.idempotency_key:
            first = [one for one in told.attempts if one.outcome == "ok" and not one.is_replay]
            if len(first) > 1:
                yield Finding(Wrong.TWICE, f"{operation.id}: done as new {len(first)} times")


def _shifts(logs: Iterable[Told], state: State, ended_at: float) -> Iterator[Finding]:
    """Acknowledged: exactly one shift; refused: none; unknown: none or one; and none that nobody sent."""
    found: dict[tuple[str, int], list[Document]] = defaultdict(list)
    for shift in state.shifts:
        found[shift["server"], shift["duration"]].append(shift)
    for told in logs:
        operation = told.operation
        shifts = found.pop((operation.params["server"], operation.params["duration"]), [])
        if not shifts and told.outcome == "ok":
            yield Finding(Wrong.LOST, f"{operation.id}: acknowledged, but there is no shift")
        if len(shifts) > 1:
            yield Finding(Wrong.TWICE, f"{operation.id}: there are {len(shifts)} shifts")
        if shifts and told.outcome == "refused":
            yield Finding(Wrong.ANSWER, f"{operation.id}: refused, but there is a shift")
        for shift in shifts:
            if problem := _differs(told, shift, ended_at):
                yield Finding(Wrong.ANSWER, f"{operation.id}: {problem}: {dict(shift)}")
    for shifts in found.values():
        yield Finding(Wrong.ANSWER, f"nobody sent this shift: {dict(shifts[0])}")


def _differs(told: Told, shift: Document, ended_at: float) -> str | None:
    """What of the shift is not as it was sent."""
    operation = told.operation
    sent = {
        "user": operation.params["id"],
        "place": operation.params["place"],
        "training": operation.params["training"],
        "given_ended_at": operation.params.get("ended_at"),
        "idempotency_key": operation.idempotency_key,
    }
    for name, value in sent.items():
        if shift.get(name) != value:
            return f"{name} is not {value}"
    earliest = latest = operation.params.get("ended_at")
    if earliest is not None and (ahead := operation.params.get("ahead", 0)):
        # What the request took to arrive counts as a difference of the clocks, which tell whole seconds.
        earliest, latest = earliest - ahead - 1, earliest - ahead + LONGEST_WAY_SECONDS
    if earliest is None:
        earliest, latest = int(min(attempt.invoked_at for attempt in told.attempts)), int(ended_at)
    if not earliest <= shift["ended_at"] <= latest:
        return f"it does not end between {earliest} and {latest}"
    if shift["started_at"] != shift["ended_at"] - operation.params["duration"]:
        return "it is not as long as its duration"
    return None


def _seconds(state: State) -> Iterator[Finding]:
    """A person is credited each second that any of their shifts covers, once."""
    by_user: dict[int, list[Document]] = defaultdict(list)
    for shift in state.shifts:
        by_user[shift["user"]].append(shift)
    for user, shifts in by_user.items():
        covered = _covered_seconds((shift["started_at"], shift["ended_at"]) for shift in shifts)
        credited = sum(shift["credited_seconds"] for shift in shifts)
        if credited > covered:
            text = f"user {user}: {credited} s credited, but the shifts cover {covered} s"
            yield Finding(Wrong.SECOND_TWICE, text)
        elif credited < covered:
            text = f"user {user}: {credited} s credited, though the shifts cover {covered} s"
            yield Finding(Wrong.LOST, text)


def _covered_seconds(intervals: Iterable[tuple[int, int]]) -> int:
    """How many seconds lie in at least one of the intervals."""
    edges = sorted(edge for start, end in intervals for edge in ((start, 1), (end, -1)))
    covered = depth = 0
    for (at, change), (until, _) in pairwise(edges):
        depth += change
        if depth:
            covered += until - at
    return covered


def _points(state: State) -> Iterator[Finding]:
    """A point a credited minute; shifts, events, ledger and total agree, entry by entry."""
    published = {event["id"]: event for event in state.published("shifts", "shift_logged")}
    shifts = {shift["_id"]: shift for shift in state.shifts}
    ledger = {entry["_id"]: entry for entry in state.ledger}
    for shift_id in shifts.keys() - ledger.keys():
        yield Finding(Wrong.LOST, f"shift {shift_id} is not in the ledger")
    for entry_id in ledger.keys() - shifts.keys():
        yield Finding(Wrong.TWICE, f"ledger entry {entry_id} has no shift")
    for shift_id in shifts.keys() - published.keys():
        yield Finding(Wrong.UNANNOUNCED, f"shift {shift_id}")
    for shift_id in shifts.keys() & ledger.keys():
        shift, entry = shifts[shift_id], ledger[shift_id]
        if (shift["user"], shift["points"]) != (entry["user"], entry["points"]):
            yield Finding(Wrong.ANSWER, f"shift {shift_id} and its ledger entry differ")
    for event_id in published.keys() - shifts.keys():
        yield Finding(Wrong.TWICE, f"event {event_id} has no shift")
    seconds, paid, entered = Counter[int](), Counter[int](), Counter[int]()
    for shift in state.shifts:
        paid[shift["user"]] += shift["points"]
        seconds[shift["user"]] += 0 if shift["training"] else shift["credited_seconds"]
    for entry in state.ledger:
        entered[entry["user"]] += entry["points"]
    totals = {account["id"]: account["points"] for account in state.accounts}
    for user in {*seconds, *entered, *totals, *state.profiles}:
        if paid[user] != seconds[user] // 60:
            kind = Wrong.LOST if paid[user] < seconds[user] // 60 else Wrong.TWICE
            yield Finding(kind, f"user {user}: {paid[user]} points for {seconds[user]} s")
        total = totals.get(user, 0)
        if total != entered[user]:
            kind = Wrong.LOST if total < entered[user] else Wrong.TWICE
            yield Finding(kind, f"user {user}: {total} points in all, {entered[user]} in the ledger")
        shown = state.profiles.get(user, {}).get("points")
        if shown != total:
            yield Finding(Wrong.ANSWER, f"user {user}: /profile shows {shown} points, not {total}")


def _certifications(changes: Sequence[Told], state: State) -> Iterator[Finding]:
    """The owner holds what its events tell, the events what was acknowledged, the copies what the owner holds.

    Every event carries the moderator of the request that caused it, of whom there is one for each, or one for all with
    the same Idempotency-Key.
    """
    events = [
        {**event, "held": fact == "certification_granted"}
        for fact in ("certification_granted", "certification_revoked")
        for event in state.published("certifications", fact)
    ]
    caused = Counter(event["moderator"] for event in events)
    for told in changes:
        for moderator, attempt in told.by_moderator().items():
            number = caused.pop(f"discord:{moderator}", 0)
            allowed = {"ok": (1,), "refused": (0,), "unknown": (0, 1)}[attempt.outcome]
            if number not in allowed:
                text = f"{attempt.name} ({attempt.outcome}) caused {number} events"
                yield Finding(Wrong.CERTIFICATION, text)
    for request in caused:
        yield Finding(Wrong.CERTIFICATION, f"nobody sent {request}")
    by_pair: dict[tuple[int, str], list[Document]] = defaultdict(list)
    for event in events:
        by_pair[event["user"], event["certification"]].append(event)
    owned = {(one["user"], one["code"]): (one["held"], one["version"]) for one in state.certifications}
    copies = {"accounts": _copies(state.accounts, "id"), "shifts": _copies(state.members, "_id")}
    order = {f"discord:{by}": attempt for told in changes for by, attempt in told.by_moderator().items()}
    for pair in {*by_pair, *owned, *copies["accounts"], *copies["shifts"]}:
        facts = sorted(by_pair[pair], key=lambda event: event["version"])
        expected = (facts[-1]["held"], facts[-1]["version"]) if facts else None
        told_versions = [event["version"] for event in facts]
        if told_versions != list(range(1, len(facts) + 1)):
            yield Finding(Wrong.CERTIFICATION, f"{pair}: the events have the versions {told_versions}")
        if any(one["held"] == other["held"] for one, other in pairwise(facts)):
            yield Finding(Wrong.CERTIFICATION, f"{pair}: the same was granted or revoked twice in a row")
        yield from _order(pair, [order[event["moderator"]] for event in facts if event["moderator"] in order])
        if owned.get(pair) != expected:
            text = f"{pair}: the owner has {owned.get(pair)}, the last event says {expected}"
            yield Finding(Wrong.CERTIFICATION, text)
        for service, known in copies.items():
            if known.get(pair) != owned.get(pair):
                text = f"{pair}: {service} has {known.get(pair)}, the owner {owned.get(pair)}"
                yield Finding(Wrong.CERTIFICATION, text)
    for user, profile in state.profiles.items():
        held = {code for (owner, code), (is_held, _) in owned.items() if owner == user and is_held}
        if set(profile.get("certifications", ())) != held:
            text = (
                f"user {user}: /profile shows {profile.get('certifications')}, the owner has {sorted(held)}"
            )
            yield Finding(Wrong.CERTIFICATION, text)


def _order(pair: tuple[int, str], attempts: Sequence[Any]) -> Iterator[Finding]:
    """No acknowledged change may stand before one that had ended when it was asked for."""
    for index, earlier in enumerate(attempts):
        for later in attempts[index + 1 :]:
            if later.outcome == "ok" and later.ended_at < earlier.invoked_at:
                text = f"{pair}: {later.name} was over before {earlier.name} began, yet stands after it"
                yield Finding(Wrong.CERTIFICATION, text)


def _copies(documents: Iterable[Document], user: str) -> dict[tuple[int, str], tuple[bool, int]]:
    return {
        (document[user], code): (known["held"], known["version"])
        for document in documents
        for code, known in document.get("certifications", {}).items()
    }


def _applications(history: Sequence[Told], state: State) -> Iterator[Finding]:
    """An approved guest is approved once, ranked, and announced once; an uploaded text can be read.

    An upload with an Idempotency-Key is one application with one event, however often it was sent.
    """
    submitted = Counter(event["user"] for event in state.published("applications", "application_submitted"))
    uploaded = Counter(one["user"] for one in state.applications if "url" in one)
    approved = Counter(one["user"] for one in state.applications if one["status"] == "approved")
    undecided = {one["user"] for one in state.applications if one["status"] == "approving"}
    announced = Counter(event["user"] for event in state.published("applications", "application_approved"))
    ranked = Counter(event["user"] for event in state.published("accounts", "rank_changed"))
    for told in history:
        user = told.operation.params.get("id", 0)
        if told.operation.kind == "upload" and told.outcome == "ok":
            text = state.texts.get(told.operation.id, "")
            if not all(answer in text for answer in (told.operation.body or {}).values()):
                yield Finding(Wrong.APPLICATION, f"{told.operation.id}: the text of user {user} is not there")
        if told.operation.kind == "upload":
            numbers = (uploaded[user], submitted[user])
            most = 1 if told.operation.idempotency_key else len(told.attempts)
            if len(set(numbers)) > 1 or not int(told.outcome == "ok") <= numbers[0] <= most:
                text = f"{told.operation.id} ({told.outcome}): applications and their events: {numbers}"
                yield Finding(Wrong.APPLICATION, text)
        if told.operation.kind != "approve":
            continue
        # They were guests, so that they "are trainee already" means that an earlier request did it.
        expected = (0, 1) if told.outcome == "unknown" else (1,)
        if {one.outcome for one in told.attempts} & {"refused"}:
            expected = (1,)
        rank = state.profiles.get(user, {}).get("rankid")
        seen = (approved[user], announced[user], ranked[user], int(rank == 10))
        if len(set(seen)) > 1 or seen[0] not in expected or user in undecided:
            text = f"user {user} ({told.outcome}): approved, announced, rank announced, ranked: {seen}"
            yield Finding(Wrong.APPLICATION, text + (", and still undecided" if user in undecided else ""))


def _events(state: State) -> Iterator[Finding]:
    """No event waits, and none was given up on."""
    for service, rows in state.events.items():
        if unsent := [row["_id"] for row in rows if not row["sent"]]:
            yield Finding(Wrong.LEFT_BEHIND, f"outbox of {service}: {unsent}")
    for service, letters in state.dead_letters.items():
        for letter in letters:
            yield Finding(Wrong.LEFT_BEHIND, f"dead letter of {service}: {letter['reason']}")
