"""The benchmark: `python -m bench`. Everything that it starts is stopped at the end, also on Ctrl-C."""

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from bench import report, sections
from bench.goals import LINES
from bench.park import Park, add_people, open_park
from bench.sections import NGINX, Run

ALONE: dict[str, Callable[[Run], None]] = {"start": sections.start}
IN_PARK: dict[str, Callable[[Run, Park], None]] = {
    "static": sections.static,
    "connect": sections.connect,
    "log": sections.log,
    "latency": sections.latency,
    "consumer": sections.consumer,
}
_QUIET_PERCENT = 10.0


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"One of {', '.join([*ALONE, *IN_PARK])}; repeatable."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Rounds of one second: to try it, not to measure.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each candidate takes its turn.")] = 3,
) -> None:
    """Measure Callboard beside nginx, its bare services and a plain stack; about six minutes."""
    names = only or [*ALONE, *IN_PARK]
    if unknown := set(names) - set(ALONE) - set(IN_PARK):
        raise typer.BadParameter(f"there is no section {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder:
        run = Run(
            Path(folder),
            rounds=rounds,
            seconds=1 if quick else 2,
            idle_seconds=2 if quick else 20,
            watch_seconds=2 if quick else 8,
            events=10_000 if quick else 100_000,
            console=console,
        )
        if quick:
            run.tell("A quick run shows that the benchmark works; its numbers mean nothing.")
        if (busy := psutil.cpu_percent(1)) > _QUIET_PERCENT:
            run.tell(f"The machine is not quiet: {busy:.0f} % of it was busy before the first round.")
        if NGINX is None:
            run.tell("nginx is not installed: what is compared to it is left out.")
        sections.generator(run)
        for name in [name for name in names if name in ALONE]:
            console.rule(name)
            ALONE[name](run)
        in_park = [name for name in names if name in IN_PARK]
        with ExitStack() as stack:
            if in_park:
                park = stack.enter_context(open_park(run.folder))
                add_people(park)
            for name in in_park:
                console.rule(name)
                IN_PARK[name](run, park)
    kind = "quick" if quick else "bench" if only is None else "part"
    report.show(run.measures, LINES, console, kind)
    path = report.write(
        run.measures, LINES, kind, {"rounds": rounds, "seconds": run.seconds, "sections": names}
    )
    report.plot(run.measures, path.with_suffix(".svg"))
    console.print(f"Written: {path} and .svg, after {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
