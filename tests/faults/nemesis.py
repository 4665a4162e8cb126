"""What breaks the system: a plan made from a seed, and what carries it out."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import psutil

from tests.faults.system import OUTER_WIRES, System
from tests.faults.wire import Cut
from tests.support import wait_until

Kind = Literal["kill", "terminate", "stop", "cut"]
Way = Literal["kill", "terminate", "stop", "refuse", "silent", "deaf"]
"""How something was broken: a wire that was cut, in which way."""

_WAYS: tuple[Kind, ...] = ("kill", "terminate", "stop")
_DOWN_SECONDS = (0.2, 1.5)
_CUT_SECONDS = (0.5, 4.0)
_RETURN_SECONDS = 5.0
_READY_SECONDS = 30.0


@dataclass(frozen=True)
class Fault:
    """Something to break, `at` seconds from the beginning, for `seconds`; `how` is for a wire."""

    at: float
    kind: Kind
    target: str
    seconds: float
    how: Cut | None = None


@dataclass(frozen=True)
class Span:
    """When something was broken, until it was healed or ready again (Unix s)."""

    target: str
    began_at: float
    ended_at: float


def plan(
    seed: int,
    components: Sequence[str],
    wires: Sequence[str],
    *,
    seconds: float,
    stop_seconds: tuple[float, float],
    pause_seconds: tuple[float, float],
) -> list[Fault]:
    """Each component and each wire in turn, in an order of the seed's, and each time in another way.

    The wires among our own parts have no turn more than once or twice: most of their cuts are of the kinds that leave
    a caller without knowing what came of its request.
    """
    rng = random.Random(f"{seed} nemesis")  # noqa: S311 - no secret
    ways = {component: rng.sample(_WAYS, len(_WAYS)) for component in components}
    cuts: dict[str, list[Cut]] = {
        wire: rng.sample(get_args(Cut), len(get_args(Cut)))
        if wire in OUTER_WIRES
        else rng.choices(get_args(Cut), (1, 2, 2), k=len(get_args(Cut)))
        for wire in wires
    }
    targets = [*components, *wires]
    faults: list[Fault] = []
    at = 0.5
    for turn in range(1000):
        for target in rng.sample(targets, len(targets)):
            if at > seconds:
                return faults
            if target in cuts:
                how = cuts[target][turn % len(cuts[target])]
                faults.append(Fault(at, "cut", target, rng.uniform(*_CUT_SECONDS), how))
            else:
                kind = ways[target][turn % len(_WAYS)]
                faults.append(
                    Fault(at, kind, target, rng.uniform(*(stop_seconds if kind == "stop" else _DOWN_SECONDS)))
                )
            at += rng.uniform(*pause_seconds)
    return faults


class Nemesis:
    """Carries out faults, counts them in `done`, and heals everything at the end; `spans` say when what was broken."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._broken: set[str] = set()
        self.done: Counter[tuple[str, Way]] = Counter()
        self.spans: list[Span] = []

    async def run(self, faults: Iterable[Fault]) -> None:
        """Break what is planned, and heal it all."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for fault in faults:
                    tasks.create_task(self._carry_out(fault))
        finally:
            self.heal()

    def heal(self) -> None:
        """Let everything run that can; the supervisor starts what is its own."""
        for wire in self._system.wires.values():
            wire.heal()
        for component in self._system.components:
            if process := self._system.find(component):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
            elif component in self._system.servers:
                self._system.start_server(component)

    async def _carry_out(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        if fault.target in self._broken:
            return
        self._broken.add(fault.target)
        began_at = time.time()
        try:
            is_done = await self._break(fault)
        finally:
            self._broken.discard(fault.target)
        if not is_done:
            return
        self.done[fault.target, _way(fault)] += 1
        if fault.kind in ("kill", "terminate"):
            with suppress(TimeoutError):  # others are broken meanwhile, which it waits for
                await wait_until(lambda: self._system.is_up(fault.target), _READY_SECONDS)
        self.spans.append(Span(fault.target, began_at, time.time()))

    async def _break(self, fault: Fault) -> bool:
        if fault.how:
            wire = self._system.wires[fault.target]
            wire.cut(fault.how)
            await asyncio.sleep(fault.seconds)
            wire.heal()
            return True
        with suppress(TimeoutError):  # it may be down at this moment, for an earlier fault
            await wait_until(lambda: self._system.find(fault.target) is not None, _RETURN_SECONDS)
        process = self._system.find(fault.target)
        if process is None:
            return False
        try:
            if fault.kind == "stop":
                process.suspend()
                await asyncio.sleep(fault.seconds)
                process.resume()
            else:
                process.send_signal(signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
                if fault.target in self._system.servers:
                    await asyncio.to_thread(self._system.running[fault.target].wait)
                    await asyncio.sleep(fault.seconds)
                    self._system.start_server(fault.target)
        except psutil.NoSuchProcess:
            return False
        return True


def _way(fault: Fault) -> Way:
    if fault.kind == "cut":
        assert fault.how
        return fault.how
    return fault.kind
