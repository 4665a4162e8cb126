"""What each part costs, for docs/scaling.md: `python -m bench.parts`.

One process for each service, as in a cluster; the CPU time that each of them, MongoDB and NATS use for a request and
all that comes of it, until the last event is handled.
"""

import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from bench import report
from bench.measures import Line, Value
from bench.park import Park, add_people, open_park
from bench.sections import Run, generator
from bench.started import callboard, cpu_seconds
from bench.traffic import WITH_ACCOUNT, Traffic, new_shifts

CONNECTIONS = (32, 128)
PATHS = ("/connect", "/profile", "/log")
PARTS = ("gateway", "accounts", "shifts", "mongod", "nats-server")
"""Who works for these requests; the others only look now and then whether there is something to do."""


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Rounds of one second: to try it, not to measure.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each kind of request takes its turn.")] = 3,
) -> None:
    """Measure what each part costs; about two minutes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder, ExitStack() as stack:
        run = Run(Path(folder), rounds=rounds, seconds=1 if quick else 4, console=console)
        generator(run)
        park = stack.enter_context(open_park(run.folder))
        add_people(park)
        up = stack.enter_context(callboard("processes", run.folder / "parts", park.env))
        parts = {name: up.process(name) for name in PARTS if name not in park.servers} | dict(park.servers)
        run.closed(Traffic("connect", up.port, park.by_key), seconds=1)
        for _ in range(rounds):
            for connections in CONNECTIONS:
                for path in PATHS:
                    _round(run, park, parts, path, up.port, connections)
    lines = [
        Line(f"{measure}: CPU of {part}", Value(measure, part, "cpu_us"), unit="us")
        for measure in (_measure(path, connections) for path in PATHS for connections in CONNECTIONS)
        for part in PARTS
    ]
    report.show(run.measures, lines, console, "parts")
    if not quick:
        written = report.write(run.measures, lines, "parts", {"rounds": rounds, "seconds": run.seconds})
        console.print(f"Written: {written}")


def _round(
    run: Run, park: Park, parts: dict[str, psutil.Process], path: str, port: int, connections: int
) -> None:
    traffic = (
        new_shifts(port, park.by_key)
        if path == "/log"
        else Traffic("connect", port, park.by_key)
        if path == "/connect"
        else Traffic("profile", port, park.by_key, people=WITH_ACCOUNT)
    )
    used = {name: cpu_seconds([process]) for name, process in parts.items()}
    answered = run.closed(traffic, connections)
    park.settle()
    measure = _measure(path, connections)
    run.note(measure, "all", {"rate": answered.rate, "failed": answered.failed})
    for name, process in parts.items():
        cost = (cpu_seconds([process]) - used[name]) / answered.requests
        run.note(measure, name, {"cpu_us": cost * 1e6})


def _measure(path: str, connections: int) -> str:
    return f"{path}, {connections} connections"


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
