"""Whatever comes, in whatever order, again, late, or at once on two replicas: each second earns once.

The service is held to a plain model of the contract, which keeps each person's time as a set of seconds.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import permutations
from math import floor
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings, strategies
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from certifications import main as certifications
from certifications.settings import CertificationsSettings
from common.app import create_app
from common.errors import InvalidQuery, KeyReused, Unavailable
from common.events import CertificationGranted, CertificationRevoked
from common.messaging.handling import Handled
from common.mongo import Database, Document, connect
from common.outgoing.local import Apps
from shifts import main as shifts
from shifts.errors import InvalidCertification
from shifts.models import Claim, LogQuery
from shifts.rules import check, repeats, uncovered_seconds
from shifts.service import Shifts
from shifts.settings import ShiftsSettings
from tests.contracts.park import changed_config
from tests.shifts.builders import recorded_shift
from tests.support import Servers, running, unique_id
from tests.support import settings as settings_of

POINTS, TRAINING_POINTS = Fraction(7, 10), Fraction(1, 4)
"""For a credited minute; each shift leaves another fraction."""

NOW = 1_700_000_000
HOUR, DAY = 3600, 24 * 3600
NEEDS_A_CERTIFICATION = 1002
# The same at each run, so that a failure is always the fault of the change at hand.
REPEATABLE = settings(settings.get_profile("ci"), max_examples=60, stateful_step_count=25)

T = TypeVar("T")


@dataclass(frozen=True)
class Replicas:
    """Two replicas of the running service, and their database."""

    services: tuple[Shifts, Shifts]
    database: Database


@pytest.fixture(scope="module")
async def replicas(
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Replicas]:
    """The service with points that leave fractions; certifications, when asked, knows nobody."""
    points = {"points = 1": f"points = {float(POINTS)}", "training_points = 0": "training_points = 0.25"}
    config = changed_config(tmp_path_factory.mktemp("config"), points)
    own = settings_of(ShiftsSettings, servers, config=config)
    neighbour = settings_of(CertificationsSettings, servers)
    certifications_app = create_app(certifications.SERVICE, neighbour)
    apps: Apps = {"certifications": certifications_app}
    first, second = create_app(shifts.SERVICE, own, apps), create_app(shifts.SERVICE, own, apps)
    client, database = connect(own, "shifts")
    async with running(certifications_app, neighbour), running(first, own), running(second, own), client:
        yield Replicas((first.state.service, second.state.service), database)


@dataclass(frozen=True)
class Request:
    """What a game server sends; `ahead` is its clock, by which it says what the time is, if it does."""

    query: LogQuery
    idempotency_key: str | None
    key: str
    ahead: int | None = None


@dataclass(frozen=True)
class Arrival:
    """A request, when it arrives (Unix s), and at which replica."""

    request: Request
    at: int
    replica: int

    @property
    def query(self) -> LogQuery:
        """What it says when it is sent at this moment."""
        ahead = self.request.ahead
        return self.request.query.model_copy(update={"now": None if ahead is None else self.at + ahead})


@dataclass
class Book:
    """What should be recorded. `versions` are those of certifications, odd ones of grants, of `changed_at`."""

    shifts: list[Document] = field(default_factory=list)
    seconds: dict[int, frozenset[int]] = field(default_factory=dict)
    earned: dict[int, Fraction] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    changed_at: dict[int, int] = field(default_factory=dict)

    def copy(self) -> "Book":
        """Another book that says the same."""
        return Book([*self.shifts], {**self.seconds}, {**self.earned}, {**self.versions}, {**self.changed_at})

    def log(self, request: Request, at: int) -> str:
        """Record a shift, if it is a new one; answers what became of it."""
        query = request.query
        if answer := self._known(request, at):
            return answer
        end = at if query.ended_at is None else min(at, query.ended_at - (request.ahead or 0))
        if at - end > 7 * DAY:
            return "out of time"
        is_held = self.versions[query.id] % 2 or self.changed_at.get(query.id, 0) > end - query.duration
        if query.place == NEEDS_A_CERTIFICATION and not query.training and not is_held:
            return "not certified"
        worked = frozenset(range(end - query.duration, end))
        before = self.seconds.get(query.id, frozenset())
        uncovered = len(worked - before)
        credited = min(uncovered, 12 * HOUR)
        earned = self.earned.get(query.id, Fraction(0))
        worth = Fraction(credited, 60) * (TRAINING_POINTS if query.training else POINTS)
        is_by_its_clock = query.ended_at is not None and (
            abs(end - query.ended_at) > 60 or abs(request.ahead or 0) > 60
        )
        flags = {
            "overlap": query.duration - uncovered > 60,
            "long": query.duration > 12 * HOUR,
            "clock": is_by_its_clock,
        }
        self.seconds[query.id] = before | worked
        self.earned[query.id] = earned + worth
        self.shifts.append(
            {
                "user": query.id,
                "place": query.place,
                "server": query.server,
                "training": query.training,
                "duration": query.duration,
                "given_ended_at": query.ended_at,
                "started_at": end - query.duration,
                "ended_at": end,
                "credited_seconds": credited,
                "points": floor(earned + worth) - floor(earned),
                "flags": [flag for flag, is_set in flags.items() if is_set],
                "key": request.key,
                "idempotency_key": request.idempotency_key,
            }
        )
        return "new"

    def _known(self, request: Request, at: int) -> str | None:
        query = request.query
        same = [shift for shift in self.shifts if _is_same(shift, query)]
        if request.idempotency_key is not None:
            caller = (request.key, request.idempotency_key)
            used = [one for one in self.shifts if (one["key"], one["idempotency_key"]) == caller]
            if not used:
                return None
            is_repeat = used[0] in same and used[0]["given_ended_at"] == query.ended_at
            return "repeat" if is_repeat else "key reused"
        if query.ended_at is not None:
            return "repeat" if any(shift["given_ended_at"] == query.ended_at for shift in same) else None
        for shift in same:
            both = range(max(at - query.duration, shift["started_at"]), min(at, shift["ended_at"]))
            if 2 * len(both) > query.duration:
                return "repeat"
        return None

    def of(self, user: int) -> list[Document]:
        """A person's shifts, in an order that does not depend on that of recording."""
        return sorted((shift for shift in self.shifts if shift["user"] == user), key=_order)


def _order(shift: Document) -> str:
    return repr(sorted(shift.items()))


def _is_same(shift: Document, query: LogQuery) -> bool:
    told = (query.id, query.place, query.server, query.duration, query.training)
    return told == (shift["user"], shift["place"], shift["server"], shift["duration"], shift["training"])


class GameServers(RuleBasedStateMachine):
    """Game servers that log the shifts of two people, and a clock."""

    made: Bundle[Request] = Bundle("made")
    changes: Bundle[CertificationGranted | CertificationRevoked] = Bundle("changes")

    people = strategies.integers(0, 1)
    replica = strategies.integers(0, 1)
    durations = strategies.sampled_from([1, 20, 59, 600, 601, HOUR, 13 * HOUR])
    pauses = strategies.sampled_from([1, 9, 10, 11, 40, 290, 300, HOUR, DAY, 7 * DAY])
    ahead = strategies.sampled_from([-DAY, -HOUR, -61, -60, -30, -1])
    clocks = strategies.none() | strategies.sampled_from(
        [0, 30, 60, 61, -61, HOUR, -HOUR, -10 * DAY, 10 * DAY]
    )
    ages = strategies.sampled_from([0, 1, 300, 301, HOUR, DAY, 7 * DAY, 7 * DAY + 1])

    def __init__(self, replicas: Replicas, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._replicas = replicas
        self._loop = loop
        self._users = [unique_id(), unique_id()]
        self._now = NOW
        self._book = Book(versions=dict.fromkeys(self._users, 0))
        self._latest_versions = dict.fromkeys(self._users, 0)

    @initialize(target=made)
    def somebody_works(self) -> Request:
        """A request is made, and not sent yet."""
        return Request(_query(id=self._users[0], duration=600, ended_at=NOW), None, "north")

    @rule(
        target=made,
        person=people,
        place=strategies.sampled_from([1001, 1001, NEEDS_A_CERTIFICATION]),
        server=strategies.sampled_from(["a", "b"]),
        training=strategies.sampled_from([False, False, True]),
        duration=durations,
        age=strategies.none() | ahead | ages,
        number=strategies.none() | strategies.integers(0, 5),
        key=strategies.sampled_from(["north", "south"]),
        clock=clocks,
        arrives_at=strategies.none() | replica,
        again_after=strategies.none() | pauses,
    )
    def somebody_works_again(
        self,
        person: int,
        age: int | None,
        number: int | None,
        key: str,
        clock: int | None,
        arrives_at: int | None,
        again_after: int | None,
        **params: Any,
    ) -> Request:
        """A request is made, and sent now, twice, later, or never."""
        ended_at = None if age is None else self._now - age + (clock or 0)
        query = _query(id=self._users[person], ended_at=ended_at, **params)
        request = Request(query, None if number is None else f"{self._users[0]}-{number}", key, clock)
        if arrives_at is not None:
            self.requests_arrive_at_once([(request, arrives_at, 0)])
        if arrives_at is not None and again_after is not None:
            self.time_passes(again_after)
            self.requests_arrive_at_once([(request, 1 - arrives_at, 0)])
        return request

    @rule(
        target=made,
        request=made,
        change=strategies.sampled_from(
            [{"server": "c"}, {"training": True}, {"duration": 600}, {"ended_at": NOW}, {"id": 0}, {"id": 1}]
        ),
        replicas=strategies.tuples(replica, replica),
        has_new_key=strategies.booleans(),
    )
    def a_request_and_another_like_it_arrive_at_once(
        self, request: Request, change: dict[str, Any], replicas: tuple[int, int], has_new_key: bool
    ) -> Request:
        if has_new_key:
            request = replace(request, idempotency_key=f"new-{unique_id()}")
        if "id" in change:
            change = {"id": self._users[change["id"]]}
        other = replace(request, query=request.query.model_copy(update=change))
        self.requests_arrive_at_once([(request, replicas[0], 0), (other, replicas[1], 0)])
        return other

    @rule(target=made, request=made, is_bare=strategies.booleans())
    def a_request_loses_its_key(self, request: Request, is_bare: bool) -> Request:
        query = request.query.model_copy(update={"ended_at": None}) if is_bare else request.query
        return Request(query, None, request.key, request.ahead)

    @rule(target=made, request=made, clock=clocks)
    def a_clock_is_set(self, request: Request, clock: int | None) -> Request:
        return replace(request, ahead=clock)

    @rule(seconds=pauses)
    def time_passes(self, seconds: int) -> None:
        self._now += seconds

    @rule(
        sent=strategies.lists(
            strategies.tuples(made, replica, strategies.sampled_from([0, 1, 30])), min_size=1, max_size=4
        )
    )
    def requests_arrive_at_once(self, sent: Sequence[tuple[Request, int, int]]) -> None:
        """For the first time or again; the clocks of game servers and replicas are not quite the same."""
        arrivals = [Arrival(request, self._now - late, replica) for request, replica, late in sent]
        answers = self._run(self._send(arrivals))
        recorded = self._run(self._recorded())
        explained = (
            book
            for order in permutations(range(len(arrivals)))
            if (book := self._in_order(arrivals, answers, order))
            and all(book.of(user) == recorded[user] for user in self._users)
        )
        found = next(explained, None)
        assert found, f"no order of these arrivals explains {answers} and {recorded}"
        self._book = found

    @rule(target=changes, person=people)
    def a_certification_changes(self, person: int) -> CertificationGranted | CertificationRevoked:
        """Its event is on its way, and may come at any time, or never."""
        user = self._users[person]
        self._latest_versions[user] += 1
        version = self._latest_versions[user]
        fact = CertificationGranted if version % 2 else CertificationRevoked
        return fact(
            occurred_at=datetime.fromtimestamp(self._now, UTC),
            user=user,
            username="A",
            certification="tot",
            version=version,
            moderator="M",
        )

    @rule(first=changes, more=strategies.lists(changes, max_size=3), replica=replica)
    def changes_are_delivered(self, first: Any, more: list[Any], replica: int) -> None:
        for fact in (CertificationGranted, CertificationRevoked):  # the bus hands over one kind at a time
            batch = [change for change in (first, *more) if isinstance(change, fact)]
            if not batch:
                continue
            outcomes = self._run(self._replicas.services[replica].record_certifications(batch))
            unchanged = outcomes.count(Handled.UNCHANGED)
            for change in batch:
                if change.version <= self._book.versions[change.user]:
                    unchanged -= 1
                    continue
                self._book.versions[change.user] = change.version
                self._book.changed_at[change.user] = int(change.occurred_at.timestamp())
            assert unchanged == 0
        for user, version in self._book.versions.items():
            member = self._run(self._replicas.database["members"].find_one({"_id": user}))
            known = (member or {}).get("certifications", {}).get("tot")
            assert (known and (known["held"], known["version"], int(known["changed_at"].timestamp()))) == (
                (bool(version % 2), version, self._book.changed_at[user]) if version else None
            )

    def teardown(self) -> None:
        self._run(self._check_the_books())

    async def _check_the_books(self) -> None:
        """No second is credited twice, whole points are those of all seconds, each shift has its event."""
        for user in self._users:
            stored = await self._replicas.database["shifts"].find({"user": user}).to_list()
            credited = sum(shift["credited_seconds"] for shift in stored)
            assert credited <= len(self._book.seconds.get(user, ()))
            assert sum(shift["points"] for shift in stored) == floor(self._book.earned.get(user, 0))
            for shift in stored:
                row = await self._replicas.database["outbox"].find_one({"_id": shift["_id"]})
                assert row is not None
                event = json.loads(row["payload"])
                assert (event["user"], event["points"]) == (user, shift["points"])

    async def _send(self, arrivals: Iterable[Arrival]) -> list[set[str]]:
        return await asyncio.gather(*(self._answer(arrival) for arrival in arrivals))

    async def _answer(self, arrival: Arrival) -> set[str]:
        """What became of the request, as far as its answer tells."""
        service, request = self._replicas.services[arrival.replica], arrival.request
        is_first = True
        while True:
            try:
                is_repeat = await service.log(
                    arrival.query, request.key, request.idempotency_key, arrived_at=arrival.at
                )
            except Unavailable:  # a slow machine; the request may have been recorded all the same
                is_first = False
            except KeyReused:
                return {"key reused"}
            except InvalidQuery:
                return {"out of time"}
            except InvalidCertification:
                return {"not certified"}
            else:
                answer = "repeat" if is_repeat else "new"
                return {answer} if is_first else {answer, "new"}

    async def _recorded(self) -> dict[int, list[Document]]:
        found: dict[int, list[Document]] = {user: [] for user in self._users}
        async for shift in self._replicas.database["shifts"].find({"user": {"$in": self._users}}):
            for name in ("_id", "logged_at", "number", "exact_points", "carried"):
                del shift[name]
            found[shift["user"]].append({**shift, "idempotency_key": shift.get("idempotency_key")})
        return {user: sorted(shifts, key=_order) for user, shifts in found.items()}

    def _in_order(
        self, arrivals: Sequence[Arrival], answers: Sequence[set[str]], order: Sequence[int]
    ) -> Book | None:
        """The book after the arrivals in this order, if that may give these answers."""
        book = self._book.copy()
        for number in order:
            if book.log(arrivals[number].request, arrivals[number].at) not in answers[number]:
                return None
        return book

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


async def test_any_requests_in_any_order_are_recorded_as_the_contract_says(replicas: Replicas) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(
        run_state_machine_as_test,
        lambda: GameServers(replicas, loop),  # type: ignore[arg-type]  # it calls what it is given
        settings=REPEATABLE,
    )


def _query(**params: Any) -> LogQuery:
    return LogQuery(**{"place": 1001, "server": "a", "training": False} | params)


moments = strategies.integers(0, 60)
intervals = strategies.tuples(moments, moments).map(lambda pair: (min(pair), max(pair)))
QUICK = settings(settings.get_profile("ci"), max_examples=300)


@QUICK
@given(intervals, strategies.lists(intervals, max_size=6))
def test_uncovered_seconds_are_those_of_no_covered_interval(
    interval: tuple[int, int], covered: list[tuple[int, int]]
) -> None:
    seconds = set(range(*interval)).difference(*(range(*one) for one in covered))
    assert uncovered_seconds(*interval, covered) == len(seconds)


@QUICK
@given(strategies.integers(1, 12), strategies.lists(strategies.integers(-15, 15), max_size=4))
def test_a_bare_request_repeats_a_shift_with_which_it_shares_more_than_half_its_seconds(
    duration: int, starts: list[int]
) -> None:
    shared = [len({*range(duration)} & {*range(start, start + duration)}) for start in starts]
    claim = Claim(1, 1001, "a", False, duration, None, duration, "north", None, True)
    recorded = [recorded_shift(1, start, start + duration) for start in starts]
    assert repeats(claim, None, recorded) == any(2 * seconds > duration for seconds in shared)


moves = strategies.sampled_from([0, 1, 60, 61, HOUR, 2 * HOUR, DAY, 20 * DAY]).flatmap(
    lambda seconds: strategies.sampled_from([seconds, -seconds])
)
"""By how much a clock is wrong, or is set."""

retries = strategies.lists(
    strategies.tuples(strategies.integers(0, 20 * DAY), moves, strategies.booleans()), min_size=1, max_size=4
)
"""How much later, by how much our clock was set meanwhile, and whether the retry says what the time is."""


@QUICK
@given(moves, moves, strategies.integers(0, 7 * DAY - 60), strategies.integers(0, 59))
def test_no_clock_is_wrong_enough_for_a_refusal_where_the_sender_says_what_the_time_is(
    theirs: int, ours: int, age: int, seconds_on_the_way: int
) -> None:
    ended_at = NOW - age
    claim = _claim(ended_at + theirs, NOW + ours + seconds_on_the_way, NOW + theirs)
    check(claim)
    assert claim.ended_at == ended_at + ours + seconds_on_the_way
    assert claim.has_wrong_clock == (abs(ours + seconds_on_the_way - theirs) > 60)


@QUICK
@given(moves, strategies.integers(0, DAY))
def test_no_clock_ahead_is_wrong_enough_for_a_refusal_where_the_sender_does_not(
    theirs: int, age: int
) -> None:
    claim = _claim(NOW - age + abs(theirs), NOW, None)
    check(claim)
    assert claim.ended_at == min(NOW, NOW - age + abs(theirs))


def _claim(ended_at: int, arrived_at: int, now: int | None) -> Claim:
    return Claim(1, 1001, "a", False, 600, ended_at, arrived_at, "north", None, True, sent_at=now)


async def test_whatever_the_clocks_say_a_shift_and_its_retries_count_once(replicas: Replicas) -> None:
    loop = asyncio.get_running_loop()

    @REPEATABLE
    @given(moves, moves, strategies.sampled_from([0, 300, DAY]), strategies.booleans(), retries)
    def holds(theirs: int, ours: int, age: int, has_key: bool, later: list[tuple[int, int, bool]]) -> None:
        user = unique_id()
        query = _query(id=user, duration=600, ended_at=NOW - age + theirs)
        arrivals: list[tuple[int, int | None]] = [(NOW + ours, NOW + theirs)]
        for delay, is_set_by, says_now in later:
            arrivals.append((NOW + delay + ours + is_set_by, NOW + delay + theirs if says_now else None))

        async def send_all() -> list[bool]:
            return [
                await replicas.services[number % 2].log(
                    query.model_copy(update={"now": now}),
                    "north",
                    f"{user}" if has_key else None,
                    arrived_at=at,
                )
                for number, (at, now) in enumerate(arrivals)
            ]

        answers = asyncio.run_coroutine_threadsafe(send_all(), loop).result(60)
        stored = replicas.database["shifts"].find({"user": user}).to_list()
        (one,) = asyncio.run_coroutine_threadsafe(stored, loop).result(60)
        assert answers == [False, *(True for _ in later)]
        assert one["credited_seconds"] == 600

    await asyncio.to_thread(holds)
