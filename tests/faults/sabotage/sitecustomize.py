"""Changes to the product that only the fault tests make, in the processes that they start.

Python imports this module at its start when its folder is on PYTHONPATH. CALLBOARD_FAULTS_PATCHES names the
functions below that a service runs before anything else. All but the first break a promise on purpose: the
negative controls show that the checks see it. CALLBOARD_FAULTS_WIRES says, as JSON, on which port the wire to each replica
listens: `callboard up` tells the gateway and the services to go through it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

_PATCHED = {
    "accounts.main",
    "certifications.main",
    "applications.main",
    "shifts.main",
    "callboard.one_process",
}


def quick_ack_wait() -> None:
    """What a consumer does not acknowledge comes again after 3 seconds, not 30, so that a test sees it often."""
    from common.messaging.limits import BusLimits

    BusLimits.model_fields["ack_wait_seconds"].default = 3.0
    BusLimits.model_rebuild(force=True)


def no_ledger_check() -> None:
    """A shift that comes again is added again."""
    from pymongo import ReplaceOne

    from accounts import repository

    async def recorded(*_: object) -> set[str]:
        return set()

    def put(entry: dict[str, Any]) -> ReplaceOne[dict[str, Any]]:
        return ReplaceOne({"_id": entry["_id"]}, entry, upsert=True)

    _replace(repository.Accounts, "recorded", recorded)
    _replace(repository, "InsertOne", put)


def no_outbox() -> None:
    """The event of a shift is published once, right after the commit, and stored nowhere."""
    from common.mongo import transaction
    from common.outbox import Outbox
    from shifts import service

    bus: Any = None
    uncommitted: list[Any] = []
    tasks: set[asyncio.Task[None]] = set()

    async def anew(database: Any, work: Callable[[Any], Awaitable[Any]], **how: Any) -> Any:
        uncommitted.clear()  # what an aborted transaction left is no fact
        return await transaction(database, work, **how)

    async def add(_: Outbox, __: object, events: Sequence[Any], ___: object = None) -> None:
        uncommitted[:] = events

    def wake(_: Outbox) -> None:
        for event in uncommitted:
            task = asyncio.create_task(publish(event))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        uncommitted.clear()

    async def publish(event: Any) -> None:
        with suppress(Exception):
            await bus.publish(event.id, event.SUBJECT, event.model_dump_json().encode())

    async def relay(_: Outbox, given: Any) -> None:
        nonlocal bus
        bus = given
        await asyncio.Event().wait()

    if sys.orig_argv[-1] == "shifts.main":  # so that certifications stay right, and only points are lost
        _replace(service, "transaction", anew)
        for function in (add, wake, relay):
            _replace(Outbox, function.__name__, function)


def no_overlap_rule() -> None:
    """Every second of a shift is credited, whatever other shifts cover."""
    from shifts import service

    def uncovered_seconds(start: int, end: int, _: object) -> int:
        return end - start

    _replace(service, "uncovered_seconds", uncovered_seconds)


def no_versions() -> None:
    """Of two events about one certification, the one that comes last is believed."""
    from accounts import repository as accounts
    from shifts import repository as shifts

    def are_newer(_: object, versions: Sequence[object]) -> list[bool]:
        return [True for _ in versions]

    _replace(accounts, "are_newer", are_newer)
    _replace(shifts, "are_newer", are_newer)


def _replace(owner: Any, name: str, value: object) -> None:
    getattr(owner, name)  # what is not there cannot be broken
    setattr(owner, name, value)


def _through_wires(wires: dict[str, int]) -> None:
    from dataclasses import replace

    from callboard import up

    plan = up.plan  # type: ignore[attr-defined] # it is the one that `up` calls

    def plan_with_wires(*given: Any) -> Any:
        stages = plan(*given)
        ports = {one.port: wires[one.name] for stage in stages for one in stage if one.name in wires}

        def lead(name: str, text: str) -> str:
            if name.endswith(("_URL", "_UPSTREAMS")):
                for port, wire in ports.items():
                    text = text.replace(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{wire}")
            return text

        return [
            [replace(one, env={name: lead(name, text) for name, text in one.env.items()}) for one in stage]
            for stage in stages
        ]

    _replace(up, "plan", plan_with_wires)


PATCHES = {
    patch.__name__: patch
    for patch in (quick_ack_wait, no_ledger_check, no_outbox, no_overlap_rule, no_versions)
}

if "up" in sys.orig_argv and (given := json.loads(os.environ.get("CALLBOARD_FAULTS_WIRES", "{}"))):
    _through_wires(given)

if _PATCHED & set(sys.orig_argv):
    for name in os.environ.get("CALLBOARD_FAULTS_PATCHES", "").split():
        try:
            PATCHES[name]()
        except Exception as error:
            # Python would go on without the patch.
            raise SystemExit(f"the patch {name} cannot be applied: {error!r}") from error
