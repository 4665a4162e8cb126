"""One run: clients work, the nemesis breaks things, all heals, and what is left is checked."""

import asyncio
import json
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nats
from nats.js.api import ConsumerInfo
from pymongo import AsyncMongoClient

from tests.faults.availability import Availability, availability
from tests.faults.checks import Finding, State, Wrong, check
from tests.faults.clients import Client, GameServer, LastServer, Park, Recruiter, Trainer, Visitor
from tests.faults.history import Kind, Outcome, Told, read_histories
from tests.faults.nemesis import Fault, Nemesis, Way, plan
from tests.faults.system import REPLICATED, Form, System, hop, keep, replicas, running_system
from tests.faults.wire import Passing
from tests.support import ROOT, wait_until

KEPT = ROOT / ".faults"
PROVES_NOTHING = 3
"""The status of a run in which all was right, but too little happened."""
SERVICES = ("accounts", "certifications", "applications", "shifts")
CONSUMERS = {
    "accounts": ("shift_logged", "certification_granted", "certification_revoked"),
    "shifts": ("certification_granted", "certification_revoked"),
}
READY_SECONDS = 120.0
FINISH_SECONDS = 90.0
SERVED_SECONDS = 60.0
QUIET_SECONDS = 120.0
"""Limits that a busy machine does not reach; what waits is told at once when it is over."""

_COUNTED = re.compile(
    r"^callboard_(events_redelivered|events_unchanged)_total(?:\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)
_GIVEN_UP = re.compile(r"^callboard_upstream_replicas_open\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Scenario:
    """What a run is like; times in seconds.

    `first` is broken besides what the seed plans. The consumers' ack wait is 3 s with the patch
    `quick_ack_wait`, else the product's 30 s; `stop_seconds` says how long a process is stopped.
    """

    name: str
    form: Form = "processes"
    seconds: float = 40
    stop_seconds: tuple[float, float] = (3.5, 5.0)
    pause_seconds: tuple[float, float] = (0.7, 2.0)
    patches: tuple[str, ...] = ()
    first: tuple[Fault, ...] = ()
    game_servers: int = 8
    trainers: int = 2


@dataclass
class Result:
    """What was done, seen and found."""

    scenario: Scenario
    seed: int
    broken: Counter[tuple[str, Way]] = field(default_factory=Counter)
    wires: dict[str, Counter[Passing]] = field(default_factory=dict)
    """What passed each wire, and what was lost on it."""
    requests: Counter[Outcome] = field(default_factory=Counter)
    operations: Counter[Outcome] = field(default_factory=Counter)
    shifts: int = 0
    events: int = 0
    redelivered: int = 0
    replayed_answers: int = 0
    unchanged_events: int = 0
    repeated_inside: int = 0
    """Operations whose first answer was that of a repeat, which a caller of ours made after a lost answer."""
    availability: dict[Kind, Availability] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0
    kept: Path | None = None

    @property
    def problems(self) -> list[str]:
        """Why this run fails: what was found, or that it saw too little to prove anything."""
        problems = [str(finding) for finding in self.findings]
        if not self.redelivered:
            problems.append("proves nothing: no event was delivered again")
        if not self.replayed_answers + self.unchanged_events:
            problems.append("proves nothing: no duplicate was suppressed")
        if self.scenario.form == "processes":
            problems += [f"proves nothing: {problem}" for problem in self._unproven_wires()]
        return problems

    def _unproven_wires(self) -> Iterator[str]:
        """What the wires to the replicas did not see, without which they test nothing."""
        empty = Counter[Passing]()
        hops = {
            service: [self.wires.get(hop(one), empty) for one in replicas(service)] for service in REPLICATED
        }
        for service, wires in hops.items():
            if not (sum(wire["requests"] for wire in wires) and sum(wire["answers"] for wire in wires)):
                yield f"{service} was not called through its wires"
        kinds: tuple[Passing, ...] = ("requests lost", "answers lost")
        for what in kinds:
            if not sum(wire[what] for wire in hops["shifts"]):
                yield f"no {what} between the gateway and shifts"


async def run(scenario: Scenario, seed: int) -> Result:
    """Run a scenario with the faults of a seed. Histories and logs of a run that fails are kept."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="callboard-faults-") as name:
        folder = Path(name)
        histories = folder / "histories"
        histories.mkdir()
        result = Result(scenario, seed)
        try:
            async with running_system(folder, scenario.form, scenario.patches) as system:
                await _run(system, histories, result)
        except Exception:
            result.findings.append(Finding(Wrong.BROKEN_OFF, traceback.format_exc()))
        finally:
            result.seconds = time.monotonic() - began
            if result.problems:
                result.kept = KEPT / f"{scenario.name.replace(' ', '-')}-{seed}"
                (folder / "faults.txt").write_text("\n".join(result.problems), "utf-8")
                keep(folder, result.kept)
    return result


async def _run(system: System, histories: Path, result: Result) -> None:
    scenario, seed = result.scenario, result.seed
    park = system.park
    preparer = Trainer(park, "preparer", seed, histories, park.certified, 0)
    for person in park.certified:
        await preparer.change(person, "tot", patience=60)
    assert all(told.outcome == "ok" for told in read_histories(histories))
    recruiter = Recruiter(park, "recruiter", seed, histories, scenario.seconds / len(park.guests))
    last = LastServer(park, "last-server", seed, histories)
    clients: list[Client] = [preparer, recruiter, last, Visitor(park, "visitor", seed, histories)]
    clients += [GameServer(park, f"server-{n}", seed, histories) for n in range(scenario.game_servers)]
    clients += [
        Trainer(park, f"trainer-{n}", seed, histories, park.changing[n :: scenario.trainers], 0.1)
        for n in range(scenario.trainers)
    ]
    nemesis, counters = Nemesis(system), Counters(system)
    planned = plan(
        seed,
        system.components,
        [*system.wires],
        seconds=scenario.seconds,
        stop_seconds=scenario.stop_seconds,
        pause_seconds=scenario.pause_seconds,
    )
    counting = asyncio.create_task(counters.run())
    working = [asyncio.create_task(client.run()) for client in clients if client not in (preparer, last)]
    try:
        await nemesis.run([*scenario.first, *planned])
        await wait_until(system.is_ready, READY_SECONDS)
        for client in clients:
            client.is_over.set()
        async with asyncio.timeout(FINISH_SECONDS):
            await asyncio.gather(*working)
        result.findings += await _serves_all(last)
        result.findings += await _all_replicas_serve(counters)
        await recruiter.settle()
        ended_at = time.time()
        result.findings += await _quiet(system)
        await counters.read()
    finally:
        for task in (counting, *working):
            task.cancel()
        await asyncio.gather(counting, *working, return_exceptions=True)
        for client in clients:
            await client.close()
    history = read_histories(histories)
    state = await read_state(system, history)
    result.findings += check(history, state, ended_at)
    await _count(system, result, history, state, nemesis, counters)


class Counters:
    """What the processes count, read often, because a process that is killed takes its counts with it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._seen: dict[tuple[str, int], Counter[str]] = {}

    async def run(self) -> None:
        """Read again and again, until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(0.4)

    async def read(self) -> None:
        """Read what each process counts, as far as it answers."""
        async with httpx.AsyncClient(trust_env=False, timeout=1) as client:
            await asyncio.gather(
                *(self._read(client, process, url) for process, url in self._system.metrics_urls().items())
            )

    async def _read(self, client: httpx.AsyncClient, process: tuple[str, int], url: str) -> None:
        with suppress(httpx.HTTPError):
            text = (await client.get(url)).text
            self._seen[process] = Counter()
            for name, value in _COUNTED.findall(text):
                self._seen[process][name] += int(float(value))

    async def replicas_given_up(self) -> Counter[str]:
        """How many replicas each process sends nothing to now; one that is not read counts as one."""
        given_up = Counter[str]()
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            for (name, _), url in self._system.metrics_urls().items():
                try:
                    text = (await client.get(url)).text
                except httpx.HTTPError:
                    given_up[name] += 1
                else:
                    given_up[name] += sum(int(float(value)) for value in _GIVEN_UP.findall(text))
        return +given_up

    def total(self, name: str) -> int:
        """The sum over all processes that there ever were."""
        return sum(seen[name] for seen in self._seen.values())


async def _serves_all(last: LastServer) -> list[Finding]:
    """With everything up, every worker's shift must be taken; a finding when that takes too long."""
    try:
        async with asyncio.timeout(SERVED_SECONDS):
            await last.run()
    except TimeoutError:
        text = f"not every worker's shift was taken in the {SERVED_SECONDS:.0f} s after all was up"
        return [Finding(Wrong.NOT_SERVED, text)]
    return []


async def _all_replicas_serve(counters: Counters) -> list[Finding]:
    """Every replica that a caller had given up must be called again; a finding when that takes too long."""

    async def is_so() -> bool:
        return not sum((await counters.replicas_given_up()).values())

    try:
        await wait_until(is_so, SERVED_SECONDS)
    except TimeoutError:
        shown = await counters.replicas_given_up()
        text = f"callers still send nothing to replicas {SERVED_SECONDS:.0f} s after all was up: {shown}"
        return [Finding(Wrong.NOT_SERVED, text)]
    return []


async def _quiet(system: System) -> list[Finding]:
    """Wait until no event is under way; a finding when that does not come."""
    waiting: Mapping[str, Any] = {}

    async def is_quiet() -> bool:
        nonlocal waiting
        waiting = {name: await client[name]["outbox"].count_documents({"sent": False}) for name in SERVICES}
        for name, info in (await _consumers(system)).items():
            waiting = {**waiting, f"consumer {name}": (info.num_pending or 0) + (info.num_ack_pending or 0)}
        return not any(waiting.values())

    async with _mongodb(system) as client:
        try:
            await wait_until(is_quiet, QUIET_SECONDS)
        except TimeoutError:
            return [Finding(Wrong.LEFT_BEHIND, f"events still wait after {QUIET_SECONDS:.0f} s: {waiting}")]
    return []


async def read_state(system: System, history: Sequence[Told]) -> State:
    """What the databases hold and the API answers."""
    async with _mongodb(system) as client:

        async def all_of(database: str, collection: str) -> list[dict[str, Any]]:
            return await client[database][collection].find().to_list()

        events = {}
        for service in SERVICES:
            events[service] = await all_of(service, "outbox")
            for row in events[service]:
                row["event"] = json.loads(row.pop("payload"))
        state = State(
            shifts=await all_of("shifts", "shifts"),
            ledger=await all_of("accounts", "ledger"),
            accounts=await all_of("accounts", "accounts"),
            members=await all_of("shifts", "members"),
            certifications=await all_of("certifications", "certifications"),
            applications=await all_of("applications", "applications"),
            events=events,
            dead_letters={name: await all_of(name, "dead_letters") for name in CONSUMERS},
        )
    people = [person.id for person in (*system.park.workers, *system.park.guests)]
    with_accounts = [account["id"] for account in state.accounts]
    state.profiles, state.texts = await _ask(system.park, history, {*people, *with_accounts})
    return state


async def _ask(
    park: Park, history: Sequence[Told], users: Iterable[int]
) -> tuple[dict[int, Any], dict[str, str]]:
    profiles, texts = {}, {}
    headers = {"x-api-key": park.keys["operator"]}
    async with httpx.AsyncClient(base_url=park.url, trust_env=False, timeout=20) as client:
        for user in users:
            answer = await client.get("/profile", params={"id": user}, headers=headers)
            profiles[user] = answer.json()
        for told in history:
            if told.operation.kind == "upload" and told.outcome == "ok":
                acknowledged = next(one for one in told.attempts if one.outcome == "ok")
                path = httpx.URL(json.loads(acknowledged.text)["url"]).path
                texts[told.operation.id] = (await client.get(path)).text
    return profiles, texts


async def _count(
    system: System,
    result: Result,
    history: Sequence[Told],
    state: State,
    nemesis: Nemesis,
    counters: Counters,
) -> None:
    result.broken = nemesis.done
    result.requests = Counter(attempt.outcome for told in history for attempt in told.attempts)
    result.operations = Counter(told.outcome for told in history)
    result.shifts = len(state.shifts)
    subjects = Counter(row["subject"].split(".")[2] for rows in state.events.values() for row in rows)
    result.events = subjects.total()
    for name, info in (await _consumers(system)).items():
        delivered = info.delivered.consumer_seq if info.delivered else 0
        result.redelivered += max(0, delivered - sum(subjects[fact] for fact in CONSUMERS[name]))
    result.redelivered = max(result.redelivered, counters.total("events_redelivered"))
    result.wires = {name: wire.seen for name, wire in system.wires.items()}
    result.availability = availability(history, nemesis.spans)
    result.repeated_inside = sum(repeated_inside(told) for told in history)
    result.replayed_answers = sum(attempt.is_replay for told in history for attempt in told.attempts)
    result.unchanged_events = counters.total("events_unchanged")


def repeated_inside(told: Told) -> bool:
    """Whether the first answer was that of a repeat though the client had sent no other request by then."""
    first, *others = told.attempts
    return first.is_replay and not any(one.invoked_at < (first.ended_at or 0) for one in others)


async def _consumers(system: System) -> dict[str, ConsumerInfo]:
    """What NATS tells of each consumer; asked directly, past the wire."""
    client = await nats.connect(system.servers["nats-server"].url)
    try:
        stream = client.jetstream(timeout=30)
        return {name: await stream.consumer_info("CALLBOARD", name) for name in CONSUMERS}
    finally:
        await client.close()


def _mongodb(system: System) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(system.servers["mongod"].url, timeoutMS=20_000)
