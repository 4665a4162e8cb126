"""What the commands share: options, the console, and how results are shown."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from callboard.stopping import run as run

if TYPE_CHECKING:  # what a command needs is imported when it runs: `up` starts sooner and stays small
    from common.settings import Settings

# Where nobody looks at it, a table may be as wide as it is.
shown = Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 200)
told = Console(stderr=True, highlight=False, width=None if sys.stderr and sys.stderr.isatty() else 200)

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="The system's data folder; without it, what CALLBOARD_* variables say, else .callboard."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much is done. Open it inside the work that is run: a signal closes only what that work opened."""
    from rich.progress import Progress

    with Progress(console=told, transient=True, disable=not told.is_terminal) as shows:
        task = shows.add_task(what)
        yield lambda done, total: shows.update(task, completed=done, total=max(done, total))


def settings(data_dir: Path | None) -> "Settings":
    """What leads to the system; see `access.find_settings`."""
    from callboard.access import find_settings

    return find_settings(data_dir)


def table_of(*columns: str) -> Table:
    """An empty table with these columns."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def show_json(value: object) -> None:
    """Print it as JSON."""
    typer.echo(json.dumps(value, indent=2))


def moment(at: datetime | None) -> str:
    """A time as the operator's clock shows it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M") if at else "never"
