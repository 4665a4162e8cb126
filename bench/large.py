"""Does the cost of a request grow with the data? `python -m bench.large`.

Two Callboards, each with a MongoDB of its own: one with a thousand accounts, one with a million accounts and
five million shifts. They take turns at the same load.
"""

import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pymongo import WriteConcern
from rich.console import Console
from rich.progress import track

from accounts.repository import ACCOUNTS, LEDGER
from bench import report
from bench.measures import Line, Value
from bench.park import Park, account, member, open_park, records
from bench.sections import Run, generator, one_round, take_turns
from bench.started import callboard
from bench.traffic import FIRST_PERSON, PLACE, Traffic, new_shifts
from certifications.repository import CERTIFICATIONS
from common.events import new_id
from common.mongo import Collection
from common.outbox import OUTBOX
from shifts.models import Shift
from shifts.repository import MEMBERS, SHIFTS, TIMESHEETS

SMALL, LARGE = 1_000, 1_000_000
SHIFTS_EACH, POINTS_EACH = 5, 10
GOAL = 1.5
_AT_ONCE = 5_000
_DAYS_IN_OUTBOX = 7


def fill(park: Park, people: int, told: str) -> None:
    """Put people who have worked for a while into the databases, as Callboard would have left them."""
    now = datetime.now(UTC)
    _insert(
        park,
        "accounts",
        ACCOUNTS,
        _each(people, lambda n: account(n, SHIFTS_EACH * POINTS_EACH)),
        people,
        told,
    )
    _insert(park, "shifts", TIMESHEETS, _each(people, _timesheet), people, told)
    _insert(park, "shifts", MEMBERS, _each(people, member), people, told)
    held = itertools.chain.from_iterable(records(FIRST_PERSON + number) for number in range(people))
    _insert(park, "certifications", CERTIFICATIONS, held, None, told)
    shifts = people * SHIFTS_EACH
    # Ids rise with time, so the oldest come first.
    _insert(park, "shifts", SHIFTS, (shift.to_document() for shift in _shifts(people, now)), shifts, told)
    _insert(
        park,
        "accounts",
        LEDGER,
        (_entry(one) for one in park.mongo.shifts.shifts.find({}, ["user", "points", "logged_at", "key"])),
        shifts,
        told,
    )
    recent = park.mongo.shifts.shifts.find({"logged_at": {"$gt": now - timedelta(days=_DAYS_IN_OUTBOX)}})
    _insert(park, "shifts", OUTBOX, map(_sent, recent), None, told)


def _each(people: int, make: Any) -> Iterator[dict[str, Any]]:
    return (make(FIRST_PERSON + number) for number in range(people))


def _timesheet(user: int) -> dict[str, Any]:
    return {"_id": user, "carry": {"numerator": 0, "denominator": 1}, "shifts": SHIFTS_EACH}


def _shifts(people: int, now: datetime) -> Iterator[Shift]:
    for turn in range(SHIFTS_EACH, 0, -1):
        for number in range(people):
            ended = now - timedelta(days=10 * turn - 9 + number % 10)
            ended_at = int(ended.timestamp())
            yield Shift(
                id=new_id(),
                user=FIRST_PERSON + number,
                place=PLACE,
                server=f"server-{number % 50}",
                training=False,
                duration=POINTS_EACH * 60,
                given_ended_at=ended_at,
                started_at=ended_at - POINTS_EACH * 60,
                ended_at=ended_at,
                credited_seconds=POINTS_EACH * 60,
                points=POINTS_EACH,
                flags=(),
                key="bench",
                idempotency_key=f"filled-{turn}-{number}",
                logged_at=ended,
                number=SHIFTS_EACH - turn + 1,
                exact_points=str(POINTS_EACH),
                carried="0",
            )


def _entry(shift: dict[str, Any]) -> dict[str, Any]:
    return {
        "_id": shift["_id"],
        "user": shift["user"],
        "points": shift["points"],
        "reason": "shift",
        "ref": shift["_id"],
        "at": shift["logged_at"],
        "by": shift["key"],
    }


def _sent(document: dict[str, Any]) -> dict[str, Any]:
    shift = Shift.from_document(document)
    event = replace(shift, logged_at=shift.logged_at.replace(tzinfo=UTC)).logged()
    return {
        "_id": event.id,
        "subject": event.SUBJECT,
        "payload": event.model_dump_json().encode(),
        "created_at": shift.logged_at,
        "sent": True,
        "sent_at": shift.logged_at,
    }


def _insert(
    park: Park,
    database: str,
    collection: Collection,
    documents: Iterator[dict[str, Any]],
    count: int | None,
    told: str,
) -> None:
    """In bulk: without indexes, which are built once at the end, and without waiting for the disk."""
    target = park.mongo[database][collection.name].with_options(write_concern=WriteConcern(1))
    target.drop_indexes()
    batches = iter(lambda: list(itertools.islice(documents, _AT_ONCE)), [])
    for batch in track(
        batches,
        f"{told}: {collection.name}",
        total=count and -(-count // _AT_ONCE),
        disable=not sys.stdout.isatty(),
    ):
        target.insert_many(batch, ordered=False)
    if collection.indexes:
        target.create_indexes(list(collection.indexes))


def measure(run: Run, parks: dict[str, Park], people: dict[str, int]) -> None:
    """/connect, /profile and /log on each, by turns."""
    with ExitStack() as stack:
        ups = {
            name: stack.enter_context(callboard("one process", park.folder / "callboard", park.env))
            for name, park in parks.items()
        }
        for kind in ("connect", "profile"):
            traffic = {
                name: Traffic(kind, up.port, parks[name].by_key, people=people[name])
                for name, up in ups.items()
            }
            for one in traffic.values():
                run.closed(one, seconds=1)
            take_turns(run, f"/{kind}", {name: one_round(run, one) for name, one in traffic.items()})

        def log(name: str, *, who_worked_before: bool) -> dict[str, float]:
            traffic = new_shifts(ups[name].port, parks[name].by_key)
            if who_worked_before:
                traffic = replace(traffic, first=FIRST_PERSON, people=people[name])
            numbers = one_round(run, traffic)()
            parks[name].settle()
            return numbers

        for name in parks:
            log(name, who_worked_before=False)
        small, large = parks
        take_turns(
            run,
            "/log",
            {
                small: lambda: log(small, who_worked_before=False),
                large: lambda: log(large, who_worked_before=False),
                f"{large}, again": lambda: log(large, who_worked_before=True),
            },
        )


def main(
    scale: Annotated[float, typer.Option(min=0.001, help="1 is a million accounts.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Rounds of one second: to try it, not to measure.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 3,
) -> None:
    """Compare the cost of a request with much data to that with little."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    people = {"small": SMALL, "large": max(SMALL, int(LARGE * scale))}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder, ExitStack() as stack:
        run = Run(Path(folder), rounds=rounds, seconds=1 if quick else 3, console=console)
        generator(run)
        parks = {}
        for name, count in people.items():
            home = run.folder / name
            home.mkdir()
            parks[name] = stack.enter_context(open_park(home))
            fill(parks[name], count, name)
            console.print(
                f"{name}: {count:,} accounts and {count * SHIFTS_EACH:,} shifts, after "
                f"{time.monotonic() - began:.0f} s"
            )
        measure(run, parks, people)
    report.show(run.measures, LINES, console, "large")
    kind = "large" if scale >= 1 and not quick else "part"
    path = report.write(
        run.measures, LINES, kind, {"people": people, "shifts_each": SHIFTS_EACH, "rounds": rounds}
    )
    console.print(f"Written: {path}, after {time.monotonic() - began:.0f} s")


def _cost(name: str, route: str, large: str = "large") -> Sequence[Line]:
    """As requests at full load cost all that there is, cost is the inverse of the rate."""
    return (
        Line(
            f"{name}: cost of a request, large / small",
            Value(route, "small", "rate"),
            Value(route, large, "rate"),
            "<=",
            GOAL,
        ),
        Line(f"{name}: p99, large / small", Value(route, large, "p99"), Value(route, "small", "p99")),
    )


LINES = [
    *_cost("/connect", "/connect"),
    *_cost("/profile", "/profile"),
    *_cost("/log", "/log"),
    *_cost("/log of people who worked before", "/log", "large, again"),
]


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
