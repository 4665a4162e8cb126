"""What is measured, one section after the other; within each, candidates take turns."""

import asyncio
import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil
from rich.console import Console

from bench import goals
from bench.load import Answered, closed, generator_name, open_or_closed, sending
from bench.measures import Measures
from bench.park import POINTS, Park, plain_stack
from bench.started import (
    FORMS,
    ROOT,
    Callboard,
    callboard,
    cpu_seconds,
    environment,
    memory_mb,
    nginx,
    started,
    static_app,
)
from bench.traffic import FIRST_PERSON, Traffic, new_shifts
from bench.visible import Seen, watch
from callboard.servers import free_port
from callboard.system import answers_ok

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
CONNECTIONS = 32
_BUSY_CORES = 0.9
"""A load generator that needs more of a core than this measures itself."""

T = TypeVar("T")


@dataclass
class Run:
    """One run: how long, what came of it, and where it is told."""

    folder: Path
    rounds: int
    seconds: int
    console: Console
    idle_seconds: float = 20
    watch_seconds: float = 8
    events: int = 100_000
    measures: Measures = field(default_factory=Measures)
    workers: Iterator[tuple[int, int]] = field(
        default_factory=lambda: ((FIRST_PERSON + number, POINTS) for number in itertools.count())
    )
    """People whose points nothing else changes, with what they have."""

    def closed(
        self, traffic: Traffic, connections: int = CONNECTIONS, seconds: int | None = None
    ) -> Answered:
        """A round of closed load."""
        return closed(traffic, connections, seconds or self.seconds, self.folder)

    def note(self, measure: str, candidate: str, numbers: Mapping[str, float]) -> None:
        """Keep a round, and tell it."""
        self.measures.add(measure, candidate, numbers)
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in numbers.items())
        self.console.print(f"  [dim]{measure}: {candidate}: {shown}[/]")
        if numbers.get("failed"):
            self.tell(f"{measure}: {candidate}: {numbers['failed']:.0f} requests failed.")
        if numbers.get("sender_cores", 0) > _BUSY_CORES:
            self.tell(f"{measure}: {candidate}: the load generator was the bottleneck.")

    def tell(self, sentence: str) -> None:
        """Keep what a reader of the result must know, and tell it."""
        self.measures.notes.append(sentence)
        self.console.print(f"[yellow]{sentence}[/]")


def generator(run: Run) -> None:
    """Which load generator is used, and what it can do: against an app that answers at once."""
    with static_app(run.folder) as port:
        answered = run.closed(Traffic("connect", port, {}))
    run.console.print(
        f"Load comes from {generator_name()}. Against an app that answers at once it gets {answered.rate:,.0f} "
        f"requests per second, and is busy for {answered.sender_cores:.0%} of a core: it is "
        f"{'the bottleneck' if answered.sender_cores > _BUSY_CORES else 'not the bottleneck'}."
    )
    run.note("load generator", generator_name(), _numbers(answered))


def start(run: Run) -> None:
    """`callboard up` on an empty folder, with MongoDB and NATS of its own: until ready, and then idle."""
    for number in range(run.rounds):
        folder = run.folder / f"start-{number}"
        began = time.monotonic()
        with callboard(goals.ONE, folder, {}) as up:
            numbers = {"ready_s": time.monotonic() - began}
            time.sleep(1)  # until `up` has become the supervisor, whose start holds more
            numbers |= {"python_mb": memory_mb(up.python()), "process_mb": memory_mb([up.gateway])}
            if number == run.rounds - 1:
                servers = [up.process(name) for name in ("mongod", "nats-server")]
                python, all_of_it = up.python(), [*up.python(), *servers]
                used, used_in_all = cpu_seconds(python), cpu_seconds(all_of_it)
                time.sleep(run.idle_seconds)
                numbers["idle_percent"] = (cpu_seconds(python) - used) / run.idle_seconds * 100
                numbers["idle_all_percent"] = (cpu_seconds(all_of_it) - used_in_all) / run.idle_seconds * 100
            run.note(goals.START, goals.ONE, numbers)
        shutil.rmtree(folder)


def static(run: Run, park: Park) -> None:
    """What the hop costs: gateway and nginx in front of an app that answers at once; and the load generator."""
    with ExitStack() as stack:
        upstream = stack.enter_context(static_app(run.folder))
        port = free_port()
        env = park.env | {
            "CALLBOARD_PORT": str(port),
            "CALLBOARD_UPSTREAMS": json.dumps({"accounts": [f"http://127.0.0.1:{upstream}"]}),
        }
        command = [sys.executable, "-P", "-m", "gateway.main"]
        gateway = stack.enter_context(
            started(
                "gateway-static",
                command,
                run.folder,
                lambda: answers_ok(f"http://127.0.0.1:{port}/readyz"),
                env,
            )
        )
        candidates = {
            "gateway": one_round(run, Traffic("connect", port, park.by_key), processes=[gateway]),
            "no proxy": one_round(run, Traffic("connect", upstream, {})),
        }
        if NGINX:
            before = stack.enter_context(nginx(NGINX, run.folder, {"/connect": upstream}, {}))
            candidates[goals.NGINX] = one_round(run, Traffic("connect", before, {}))
        take_turns(run, goals.STATIC, candidates)


def connect(run: Run, park: Park) -> None:
    """/connect through every candidate, with 32, 128 and one connection."""
    with ExitStack() as stack:
        # Idle, the forms cost next to nothing; as nothing is logged here, they share a database in peace.
        ups = {form: stack.enter_context(callboard(form, run.folder / form, park.env)) for form in FORMS}
        plain = stack.enter_context(plain_stack(park))
        services = ups[goals.HTTP].port_of("accounts")
        ports = {
            goals.ONE: (ups[goals.ONE].port, park.by_key),
            goals.HTTP: (ups[goals.HTTP].port, park.by_key),
            goals.PLAIN: (plain["aiohttp"], park.by_key),
            goals.PLAIN_HTTPX: (plain["httpx"], park.by_key),
            goals.SERVICES: (services, park.by_token),
        }
        if NGINX:
            before = stack.enter_context(nginx(NGINX, run.folder, {"/connect": services}, park.by_token))
            ports[goals.NGINX] = (before, {})
        traffic = {name: Traffic("connect", port, headers) for name, (port, headers) in ports.items()}
        for one in traffic.values():
            run.closed(one, seconds=1)  # what is compiled, connected and cached at first
        for connections, left_out in (
            (32, set[str]()),
            (128, {goals.SERVICES, goals.NGINX, goals.PLAIN_HTTPX}),
            (1, {goals.SERVICES, goals.PLAIN, goals.PLAIN_HTTPX}),
        ):
            measure = f"/connect, {connections} connection{'s' if connections > 1 else ''}"
            candidates = {
                name: one_round(run, one, connections)
                for name, one in traffic.items()
                if name not in left_out
            }
            take_turns(run, measure, candidates)
        run.note("memory", goals.ONE, {"python_mb": memory_mb(ups[goals.ONE].python())})
        run.note("memory", goals.HTTP, {"python_mb": memory_mb(ups[goals.HTTP].python())})


def log(run: Run, park: Park) -> None:
    """/log with 32 and 128 connections. One Callboard at a time, as two would share each other's events."""
    with plain_stack(park) as plain:

        def through(
            port: int, candidate: str, all_connections: Sequence[int], settle: Callable[[], None]
        ) -> None:
            run.closed(new_shifts(port, park.by_key), seconds=1)
            settle()
            for connections in all_connections:
                answered = run.closed(new_shifts(port, park.by_key), connections)
                run.note(f"/log, {connections} connections", candidate, _numbers(answered))
                settle()

        def through_callboard(form: str) -> None:
            with callboard(form, run.folder / form, park.env) as up:
                through(up.port, form, (32, 128), park.settle)

        turns: list[Callable[[], None]] = [
            lambda: through_callboard(goals.ONE),
            lambda: through_callboard(goals.HTTP),
            lambda: through(plain["aiohttp"], goals.PLAIN, (32, 128), park.settle_plain),
            lambda: through(plain["httpx"], goals.PLAIN_HTTPX, (32,), park.settle_plain),
        ]
        for number in range(run.rounds):
            for take_turn in _rotated(turns, number):
                take_turn()


def latency(run: Run, park: Park) -> None:
    """Each form alone: the tail at half the peak, and how soon points are visible."""
    for form in FORMS:
        with callboard(form, run.folder / form, park.env) as up:
            _half_peak(run, park, up)
            _points_visible(run, park, up)


def _half_peak(run: Run, park: Park, up: Callboard) -> None:
    alone = Traffic("connect", up.port, park.by_key)
    run.closed(alone, seconds=1)
    peak = run.closed(alone).rate
    for _ in range(run.rounds):
        answered = open_or_closed([alone], CONNECTIONS, run.seconds, rate=peak / 2)["connect"]
        run.note(goals.HALF, up.form, _numbers(answered))
        mix = [Traffic("connect", up.port, park.by_key, share=4), new_shifts(up.port, park.by_key)]
        mixed = open_or_closed(mix, CONNECTIONS, run.seconds, rate=peak / 2)
        run.note(goals.HALF_MIXED, up.form, _numbers(mixed["connect"]))
        run.note(f"{goals.HALF_MIXED}: of /log", up.form, _numbers(mixed["log"]))
        park.settle()


def _points_visible(run: Run, park: Park, up: Callboard) -> None:
    seconds = run.watch_seconds
    seen = asyncio.run(watch(up.port, park.by_key, run.workers, 50, seconds))
    run.note("points visible, 50/s", up.form, _delays(seen))
    park.settle()
    rate = 1000
    load = [new_shifts(up.port, park.by_key)]
    with sending(load, CONNECTIONS, seconds + 1, rate=rate) as windows:
        seen = asyncio.run(watch(up.port, park.by_key, run.workers, 20, seconds))
        (answered,) = windows
    numbers = _delays(seen) | {"rate": answered["log"]["rate"]}
    run.note(f"points visible, {rate}/s", up.form, numbers)
    if numbers["rate"] < 0.97 * rate:
        run.tell(
            f"{rate} /log per second is above what {up.form} does here: {numbers['rate']:,.0f} of them were "
            "answered in time."
        )
    park.settle()


def consumer(run: Run, park: Park) -> None:
    """The consumer of accounts works off what waits, with its database and without. No Callboard runs."""

    def work(what: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "bench.consumer", what, str(run.events)]
        result = subprocess.run(  # noqa: S603 - our own
            command, cwd=ROOT, env=environment(park.env), stdout=subprocess.PIPE, check=True, timeout=300
        )
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    work("fill")
    for number in range(run.rounds):
        for what in _rotated(["accounts", "nothing"], number):
            told = work(what)
            memory = told["memory"]
            numbers = {
                "rate": run.events / told["seconds"],
                "growth_mb": memory[-1] - memory[3],
                "memory_mb": memory[-1],
            }
            run.note(goals.CONSUMER, what, numbers)
    work("empty")


def one_round(
    run: Run, traffic: Traffic, connections: int = CONNECTIONS, processes: Sequence[psutil.Process] = ()
) -> Callable[[], dict[str, float]]:
    """A round of load, and the CPU that these processes spent on each request."""

    def go() -> dict[str, float]:
        before = cpu_seconds(processes)
        answered = run.closed(traffic, connections)
        numbers = _numbers(answered)
        if processes:
            numbers["cpu_ms"] = (cpu_seconds(processes) - before) / answered.requests * 1000
        return numbers

    return go


def take_turns(run: Run, measure: str, candidates: Mapping[str, Callable[[], dict[str, float]]]) -> None:
    """Every candidate once in each round."""
    for number in range(run.rounds):
        for name in _rotated(list(candidates), number):
            run.note(measure, name, candidates[name]())


def _rotated(items: Sequence[T], number: int) -> list[T]:
    """In another order each round, so that none always comes after the same other."""
    turn = number % len(items)
    return [*items[turn:], *items[:turn]]


def _numbers(answered: Answered) -> dict[str, float]:
    numbers = asdict(answered)
    del numbers["statuses"]
    return {name: float(value) for name, value in numbers.items()}


def _delays(seen: Sequence[Seen]) -> dict[str, float]:
    """Milliseconds; `growth` is the median of the last third over that of the first."""
    delays = [one.visible if one.visible is not None else math.inf for one in seen]
    ordered = sorted(delays)
    third = len(delays) // 3
    return {
        "p50": median(delays),
        "p99": ordered[int(0.99 * len(ordered))],
        "answered_p50": median(one.answered for one in seen),
        "growth": median(delays[-third:]) / median(delays[:third]),
        "shifts": len(seen),
    }
