"""What the runs did, saw and found, as tables in Markdown."""

from collections import Counter
from collections.abc import Sequence

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from tests.faults.availability import Availability
from tests.faults.history import Kind
from tests.faults.nemesis import Way
from tests.faults.run import Result

_WAYS: tuple[Way, ...] = ("kill", "terminate", "stop", "refuse", "silent", "deaf")


def show(results: Sequence[Result]) -> None:
    """Print the tables, and what is wrong."""
    console = Console(width=240, highlight=False, markup=False)
    console.print(_runs(results))
    console.print(_broken(results))
    console.print(_availability(results))
    for result in results:
        for problem in result.problems:
            console.print(f"{result.scenario.name}, seed {result.seed}: {problem}")
        if result.kept:
            console.print(f"Histories and logs of this run: {result.kept}")


def _runs(results: Sequence[Result]) -> Table:
    table = Table(box=MARKDOWN)
    columns = (
        "seed",
        "run",
        "broken",
        "requests: ok",
        "refused",
        "unknown",
        "operations left unknown",
        "shifts",
        "events",
        "delivered again",
        "repeats answered",
        "by our own callers",
        "events suppressed",
        "wrong",
        "seconds",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for result in results:
        values = (
            result.seed,
            result.scenario.name,
            result.broken.total(),
            *(result.requests[outcome] for outcome in ("ok", "refused", "unknown")),
            result.operations["unknown"],
            result.shifts,
            result.events,
            result.redelivered,
            result.replayed_answers,
            result.repeated_inside,
            result.unchanged_events,
            len(result.problems),
            round(result.seconds),
        )
        table.add_row(*map(str, values))
    return table


def _broken(results: Sequence[Result]) -> Table:
    """How often each component was broken, in which way, and what was lost on each wire."""
    table = Table(box=MARKDOWN)
    table.add_column("component", no_wrap=True)
    for column in (*_WAYS, "requests lost", "answers lost"):
        table.add_column(column, justify="right")
    total = sum((result.broken for result in results), Counter[tuple[str, Way]]())
    lost = Counter[tuple[str, str]]()
    for result in results:
        for name, seen in result.wires.items():
            for what in ("requests lost", "answers lost"):
                lost[name, what] += seen[what]
    components = sorted({component for component, _ in total})
    for component in components:
        values = [total[component, way] for way in _WAYS]
        losses = [
            lost[component, what] if component.startswith("wire ") else ""
            for what in ("requests lost", "answers lost")
        ]
        table.add_row(component, *map(str, (*values, *losses)))
    sums = [sum(total[one, way] for one in components) for way in _WAYS]
    table.add_row(
        "all",
        *map(
            str,
            (
                *sums,
                *(sum(lost[one, what] for one in components) for what in ("requests lost", "answers lost")),
            ),
        ),
    )
    return table


def _availability(results: Sequence[Result]) -> Table:
    """How many requests of each kind failed. Correctness does not depend on it."""
    table = Table(box=MARKDOWN)
    table.add_column("request", no_wrap=True)
    for column in ("sent", "answered 502 to 504", "no answer in time", "failed", "beside a whole way"):
        table.add_column(column, justify="right", no_wrap=True)
    total: dict[Kind, Availability] = {}
    for result in results:
        for kind, one in result.availability.items():
            for name, value in vars(one).items():
                whole = total.setdefault(kind, Availability())
                setattr(whole, name, getattr(whole, name) + value)
    for kind, one in sorted(total.items()):
        failed = (one.answered_5xx + one.unanswered) / one.requests
        values = (one.requests, one.answered_5xx, one.unanswered, f"{failed:.0%}", one.beside_a_whole_way)
        table.add_row(kind, *map(str, values))
    return table
