"""What the runs did, saw and found, as tables in Markdown."""

from collections import Counter
from collections.abc import Sequence

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from tests.faults.nemesis import Kind
from tests.faults.run import Result

_KINDS: tuple[Kind, ...] = ("kill", "terminate", "stop", "cut")


def show(results: Sequence[Result]) -> None:
    """Print the tables, and what is wrong."""
    console = Console(width=200, highlight=False, markup=False)
    console.print(_runs(results))
    console.print(_broken(results))
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
            result.unchanged_events,
            len(result.problems),
            round(result.seconds),
        )
        table.add_row(*map(str, values))
    return table


def _broken(results: Sequence[Result]) -> Table:
    """How often each component was broken, in which way."""
    table = Table(box=MARKDOWN)
    table.add_column("component", no_wrap=True)
    for kind in _KINDS:
        table.add_column(kind, justify="right")
    total = sum((result.broken for result in results), Counter[tuple[str, Kind]]())
    for component in sorted({component for component, _ in total}):
        table.add_row(component, *(str(total[component, kind]) for kind in _KINDS))
    table.add_row("all", *(str(sum(total[one] for one in total if one[1] == kind)) for kind in _KINDS))
    return table
