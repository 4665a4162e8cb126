"""Mixed load for a long time, at half of the peak: `python -m bench.soak --minutes 30`.

Memory must stay flat, the delay until points are visible must not grow, and `callboard verify` must find
nothing. The load comes at a constant rate, so what is slow is not asked for less often.
"""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import linear_regression, median
from typing import Annotated, Any

import pygal  # type: ignore[import-untyped] # it has no types
import typer
from pygal.style import CleanStyle  # type: ignore[import-untyped] # it has no types
from rich.console import Console
from rich.progress import track

from bench import report
from bench.load import open_or_closed, sending
from bench.measures import Line, Measures, Value
from bench.park import Park, add_people, open_park
from bench.started import CALLBOARD, ROOT, Callboard, callboard, memory_mb
from bench.traffic import FIRST_PERSON, WITH_ACCOUNT, Traffic
from bench.visible import watch

CONNECTIONS = 32
WINDOW_SECONDS = 10.0
WATCHED = 3_000
"""How many shifts are watched until their points are visible, over the whole time."""

_WORKERS = 20_000
_SETTLED_SHARE = 0.2
"""The first part of the time, in which caches fill, says nothing about growth."""

SOAK = "soak"
LINES = [
    Line("memory of Python, growth per hour", Value(SOAK, "all", "python_mb_per_hour"), None, "<=", 10, "MB"),
    Line("memory of Python at the end", Value(SOAK, "all", "python_mb"), unit="MB"),
    Line("memory of mongod at the end", Value(SOAK, "all", "mongod_mb"), unit="MB"),
    Line("memory of nats-server at the end", Value(SOAK, "all", "nats_mb"), unit="MB"),
    Line("delay until visible, last third / first third", Value(SOAK, "all", "growth"), None, "<=", 1.5),
    Line("delay until visible, median", Value(SOAK, "all", "visible_ms"), unit="ms"),
    Line("/connect, median of the windows' p99", Value(SOAK, "all", "connect_p99"), unit="ms"),
    Line("/log, median of the windows' p99", Value(SOAK, "all", "log_p99"), unit="ms"),
    Line("requests that failed", Value(SOAK, "all", "failed"), None, "<=", 0),
    Line("requests", Value(SOAK, "all", "requests")),
    Line("what `callboard verify` found", Value(SOAK, "all", "differences"), None, "<=", 0),
]


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 30,
    processes: Annotated[bool, typer.Option("--processes", help="Each service in its own process.")] = False,
) -> None:
    """Soak Callboard in mixed load at half of its peak."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    form = "processes" if processes else "one process"
    measures = Measures()
    with tempfile.TemporaryDirectory(prefix="callboard-soak-") as folder, open_park(Path(folder)) as park:
        add_people(park, points=0)  # as no shift was ever logged
        with callboard(form, park.folder / "callboard", park.env) as up:
            open_or_closed(_mix(up.port, park), CONNECTIONS, 2, rate=None)
            at_peak = open_or_closed(_mix(up.port, park), CONNECTIONS, 5, rate=None)
            peak = sum(part.rate for part in at_peak.values())
            park.settle()
            console.print(
                f"The peak of this mix is {peak:,.0f} requests per second; half of that from now on."
            )
            windows = _soak(up, park, peak / 2, minutes * 60, console)
            park.settle()
            verified = _verify(up)
    for difference in verified["differences"][:10]:
        console.print(f"[yellow]{difference}[/]")
    for window in windows:
        measures.add(SOAK, "windows", window)
    measures.add(SOAK, "all", _summary(windows, verified))
    report.show(measures, LINES, console, "soak")
    kind = "soak" if minutes >= 30 else "part"
    path = report.write(measures, LINES, kind, {"minutes": minutes, "form": form, "rate": peak / 2})
    _plot(windows, path.with_suffix(".svg"))
    console.print(f"Written: {path} and .svg")


def _mix(port: int, park: Park) -> list[Traffic]:
    """Of twenty requests, fifteen ask who joins, four log a shift, one looks at a profile."""
    run = f"{time.time_ns():x}"
    return [
        Traffic("connect", port, park.by_key, share=15),
        Traffic("profile", port, park.by_key, people=WITH_ACCOUNT, share=1),
        Traffic("log", port, park.by_key, first=10**9, people=_WORKERS, run=run, share=4),
    ]


def _soak(up: Callboard, park: Park, rate: float, seconds: float, console: Console) -> list[dict[str, float]]:
    watched_rate = min(2.0, WATCHED / seconds)
    people = ((FIRST_PERSON + number, 0) for number in itertools.count())
    windows: list[dict[str, float]] = []
    count = max(1, round(seconds / WINDOW_SECONDS))
    with sending(
        _mix(up.port, park), CONNECTIONS, count * WINDOW_SECONDS, rate=rate, window=WINDOW_SECONDS
    ) as answers:
        for _ in track(range(count), "Soaking", disable=not sys.stdout.isatty()):
            # Shorter than the window by what the last of them may take to be seen.
            seen = asyncio.run(watch(up.port, park.by_key, people, watched_rate, WINDOW_SECONDS - 2))
            told = next(answers)
            for kind, part in told.items():
                if part["failed"]:
                    console.print(f"[yellow]/{kind} was answered with {part['statuses']}[/]")
            delays = [one.visible or 10_000.0 for one in seen]
            windows.append(
                {
                    "python_mb": memory_mb(up.python()),
                    "mongod_mb": memory_mb([park.servers["mongod"]]),
                    "nats_mb": memory_mb([park.servers["nats-server"]]),
                    "visible_ms": median(delays) if delays else 0.0,
                    **{
                        f"{kind}_{name}": told[kind][name] for kind in told for name in ("rate", "p50", "p99")
                    },
                    "failed": sum(part["failed"] for part in told.values()),
                    "requests": sum(part["requests"] for part in told.values()),
                }
            )
    return windows


def _verify(up: Callboard) -> dict[str, Any]:
    result = subprocess.run(  # noqa: S603 - our own
        [CALLBOARD, "verify", "--json", "--data-dir", up.folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=False,
    )
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def _summary(windows: list[dict[str, float]], verified: dict[str, Any]) -> dict[str, float]:
    settled = windows[int(len(windows) * _SETTLED_SHARE) :]
    hours = [number * WINDOW_SECONDS / 3600 for number in range(len(settled))]
    held = [window["python_mb"] for window in settled]
    third = max(1, len(windows) // 3)
    delays = [window["visible_ms"] for window in windows]
    return {
        "python_mb_per_hour": linear_regression(hours, held).slope if len(held) > 1 else 0.0,
        "growth": median(delays[-third:]) / median(delays[:third]),
        **{name: windows[-1][name] for name in ("python_mb", "mongod_mb", "nats_mb")},
        **{
            name: median(window[name] for window in windows)
            for name in ("visible_ms", "connect_p99", "log_p99")
        },
        "failed": sum(window["failed"] for window in windows),
        "requests": sum(window["requests"] for window in windows),
        "shifts": verified["shifts"],
        "differences": len(verified["differences"])
        + sum(verified["unsent_events"].values())
        + sum(verified["dead_letters"].values()),
    }


def _plot(windows: list[dict[str, float]], path: Path) -> None:
    chart = pygal.Line(
        title="Memory (MB, left), and milliseconds (right)",
        x_title="minutes",
        style=CleanStyle,
        js=(),  # no script, least of all from another host
        show_dots=False,
        legend_at_bottom=True,
        x_labels_major_count=10,
        show_minor_x_labels=False,
        include_x_axis=True,
        disable_xml_declaration=True,
    )
    chart.x_labels = [f"{number * WINDOW_SECONDS / 60:.0f}" for number in range(len(windows))]
    for label, name in (("Python", "python_mb"), ("mongod", "mongod_mb"), ("nats-server", "nats_mb")):
        chart.add(label, [window[name] for window in windows])
    for label, name in (
        ("points visible", "visible_ms"),
        ("/connect p99", "connect_p99"),
        ("/log p99", "log_p99"),
    ):
        chart.add(label, [window[name] for window in windows], secondary=True)
    chart.render_to_file(str(path))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
