"""Which HTTP client carries the gateway's hop best: `python -m bench.hop`.

Each client that is installed forwards to the same static upstream, twice over: alone, in an ASGI app that does
nothing else, and in the gateway, with all its policies on. `own` is the gateway's own client, and in the second
form the gateway as it is; `no-hop` answers without asking anybody, and shows what is left to gain.
"""

import signal
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import report
from bench.clients import KEPT_WELL, NO_HOP, OWN
from bench.measures import Line, Value
from bench.park import open_park
from bench.sections import NGINX, Run, generator, one_round, take_turns
from bench.started import nginx, python_app, static_app
from bench.traffic import Traffic

FORMS = ("alone", "gateway")


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Rounds of one second: to try it, not to measure.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each client takes its turn.")] = 3,
    only: Annotated[list[str] | None, typer.Option(metavar="CLIENT", help="Only these; repeatable.")] = None,
) -> None:
    """Measure the HTTP clients that are installed, as the gateway's hop; about three minutes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    installed = {name: version(name) for name in KEPT_WELL if find_spec(name)}
    if missing := set(KEPT_WELL) - set(installed):
        console.print(f"[yellow]Not installed, and left out: {', '.join(sorted(missing))}.[/]")
    names = [name for name in (*installed, OWN, NO_HOP) if only is None or name in only]
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder, ExitStack() as stack:
        run = Run(Path(folder), rounds=rounds, seconds=1 if quick else 2, console=console)
        generator(run)
        park = stack.enter_context(open_park(run.folder))
        upstream = stack.enter_context(static_app(run.folder))
        for form in FORMS:
            measure = f"hop, {form}"
            with ExitStack() as served:
                candidates = {}
                for name in names:
                    arguments = (name, form, f"http://127.0.0.1:{upstream}")
                    port, process = served.enter_context(
                        python_app("bench.clients", run.folder, park.env, *arguments)
                    )
                    traffic = Traffic("connect", port, park.by_key)
                    run.closed(traffic, seconds=1)
                    candidates[name] = one_round(run, traffic, processes=[process])
                if NGINX:
                    before = served.enter_context(nginx(NGINX, run.folder, {"/connect": upstream}, {}))
                    candidates["nginx"] = one_round(run, Traffic("connect", before, {}))
                take_turns(run, measure, candidates)
    lines = [line for form in FORMS for name in names for line in _lines(f"hop, {form}", name)]
    report.show(run.measures, lines, console, "hop")
    if not quick:
        path = report.write(run.measures, lines, "hop", {"rounds": rounds, "clients": installed})
        console.print(f"Written: {path}")


def _lines(measure: str, name: str) -> list[Line]:
    label = f"{measure}: {name}"
    return [
        Line(f"{label} / nginx", Value(measure, name, "rate"), Value(measure, "nginx", "rate")),
        Line(f"{label} / aiohttp", Value(measure, name, "rate"), Value(measure, "aiohttp", "rate")),
        Line(f"{label}: CPU per request", Value(measure, name, "cpu_ms"), unit="ms"),
    ]


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
