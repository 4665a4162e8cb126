"""Events in whatever order, batches and repetition, at two replicas at once: every shift counts once.

The service is held to what is true of any order: a total is the sum of the distinct shifts that came, and a
certification is that of the highest version that came.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from accounts.main import SERVICE
from accounts.service import AccountsService
from common.app import create_app
from common.errors import Locked
from common.events import CertificationGranted, CertificationRevoked, ShiftLogged
from common.messaging.handling import Handled
from common.mongo import Database, connect, is_outage
from common.settings import Settings
from tests.accounts.builders import granted, revoked, shift_logged
from tests.support import Servers, running, unique_id
from tests.support import settings as settings_of

Fact = ShiftLogged | CertificationGranted | CertificationRevoked
T = TypeVar("T")

# The same at each run, so that a failure is always the fault of the change at hand.
REPEATABLE = settings(settings.get_profile("ci"), max_examples=40, stateful_step_count=25)


@dataclass(frozen=True)
class Replicas:
    """Two replicas of the running service, and their database."""

    services: tuple[AccountsService, AccountsService]
    database: Database


@pytest.fixture(scope="module")
async def replicas(servers: Servers) -> AsyncIterator[Replicas]:
    """The service, without a person that it knows."""
    own = settings_of(Settings, servers)
    first, second = create_app(SERVICE, own), create_app(SERVICE, own)
    client, database = connect(own, "accounts")
    async with running(first, own), running(second, own), client:
        yield Replicas((first.state.service, second.state.service), database)


class Events(RuleBasedStateMachine):
    """What happens to two people elsewhere, and its events on their way."""

    happened: Bundle[Fact] = Bundle("happened")

    people = strategies.integers(0, 1)
    replica = strategies.integers(0, 1)
    batch = strategies.lists(happened, max_size=4)

    def __init__(self, replicas: Replicas, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._replicas = replicas
        self._loop = loop
        self._users = [unique_id(), unique_id()]
        self._versions: dict[tuple[int, str], int] = {}
        self._all: list[Fact] = []
        self._came: dict[str, Fact] = {}

    @rule(target=happened, person=people, points=strategies.integers(0, 3))
    def a_shift_is_logged(self, person: int, points: int) -> Fact:
        return self._note(shift_logged(self._users[person], points))

    @rule(target=happened, person=people, code=strategies.sampled_from(["tot", "char"]))
    def a_certification_changes(self, person: int, code: str) -> Fact:
        user = self._users[person]
        version = self._versions[user, code] = self._versions.get((user, code), 0) + 1
        return self._note((granted if version % 2 else revoked)(user, code, version))

    @rule(first=happened, more=batch, replica=replica)
    def some_come(self, first: Fact, more: Sequence[Fact], replica: int) -> None:
        """In any order, once or more often, for the first time or again."""
        for fact in SERVICE.handles:
            events = [event for event in (first, *more) if isinstance(event, fact)]
            expected = sum(not self._is_news(event) for event in events)
            assert self._run(self._deliver(fact, events, replica)) in (expected, None)

    @rule(first=happened, one=batch, other=batch, replicas=strategies.tuples(replica, replica))
    def some_come_at_once(
        self, first: Fact, one: Sequence[Fact], other: Sequence[Fact], replicas: tuple[int, int]
    ) -> None:
        """Two batches, which may have events in common."""
        self._run(self._deliver_at_once((first, *one), (first, *other), replicas))
        for event in (first, *one, *other):
            self._is_news(event)

    @invariant()
    def every_shift_counts_once_and_the_newest_certification_holds(self) -> None:
        self._run(self._check())

    def teardown(self) -> None:
        """Whatever has not come so far comes last, and then everything comes once more, from the end."""
        for events in ([event for event in self._all if event.id not in self._came], self._all[::-1]):
            for event in events:
                self._is_news(event)
            for fact in SERVICE.handles:
                self._run(self._deliver(fact, [event for event in events if isinstance(event, fact)], 0))
            self._run(self._check())

    def _note(self, event: Fact) -> Fact:
        self._all.append(event)
        return event

    def _is_news(self, event: Fact) -> bool:
        """Whether the event changes anything; it has come from now on."""
        if isinstance(event, ShiftLogged):
            is_news = event.id not in self._came
        else:
            is_news = event.version > self._newest(event.user).get(event.certification, {}).get("version", 0)
        self._came[event.id] = event
        return is_news

    def _newest(self, user: int) -> dict[str, dict[str, Any]]:
        newest: dict[str, dict[str, Any]] = {}
        for event in self._came.values():
            if event.user == user and not isinstance(event, ShiftLogged):
                known = newest.setdefault(event.certification, {"held": False, "version": 0})
                if event.version > known["version"]:
                    known.update(held=isinstance(event, CertificationGranted), version=event.version)
        return newest

    async def _deliver_at_once(
        self, one: Sequence[Fact], other: Sequence[Fact], replicas: tuple[int, int]
    ) -> None:
        await asyncio.gather(
            *(
                self._deliver(fact, [event for event in events if isinstance(event, fact)], replica)
                for events, replica in zip((one, other), replicas, strict=True)
                for fact in SERVICE.handles
            )
        )

    async def _deliver(self, fact: type[Any], events: Sequence[Fact], replica: int) -> int | None:
        """As the bus does: again, until it is handled. Answers how many changed nothing, if it was told."""
        is_told = True
        while events:
            try:
                outcomes = await SERVICE.handles[fact](self._replicas.services[replica], events)
            except Exception as error:
                if not is_outage(error) and not isinstance(error, Locked):
                    raise
                is_told = False  # a slow machine; all the same, the events may have been handled
            else:
                return list(outcomes).count(Handled.UNCHANGED) if is_told else None
        return 0

    async def _check(self) -> None:
        for user in self._users:
            account = await self._replicas.database["accounts"].find_one({"id": user}) or {"points": 0}
            entries = await self._replicas.database["ledger"].find({"user": user}).to_list()
            shifts = {
                event.id: event.points
                for event in self._came.values()
                if event.user == user and isinstance(event, ShiftLogged)
            }
            assert {entry["_id"]: entry["points"] for entry in entries} == shifts
            assert account["points"] == sum(shifts.values())
            assert account.get("certifications", {}) == self._newest(user)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


async def test_any_order_repetition_and_interleaving_of_events_gives_the_same_books(
    replicas: Replicas,
) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(
        run_state_machine_as_test,
        lambda: Events(replicas, loop),  # type: ignore[arg-type]  # it calls what it is given
        settings=REPEATABLE,
    )
