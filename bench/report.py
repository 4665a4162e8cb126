"""What came of a run: the table, the JSON file, the plot, and how it differs from the last committed result."""

import json
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pygal  # type: ignore[import-untyped] # it has no types
from pygal.style import CleanStyle  # type: ignore[import-untyped] # it has no types
from rich import box
from rich.console import Console
from rich.table import Table

from bench import goals
from bench.measures import Line, Measures, Value
from bench.started import ROOT

RESULTS = Path(__file__).with_name("results")
_PACKAGES = (
    "aiohttp",
    "fastapi",
    "httptools",
    "httpx",
    "nats-py",
    "pydantic",
    "pymongo",
    "starlette",
    "uvicorn",
    "uvloop",
)


def show(measures: Measures, lines: Sequence[Line], console: Console, kind: str) -> None:
    """Print the table, beside the last committed result of this kind of run."""
    last = _last_committed(kind)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "median", "min..max", "goal", "reached", "last committed"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows(measures, lines):
        before = last.get(row["name"]) if last else None
        reached = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row["reached"]]
        table.add_row(
            row["name"],
            f"{_short(row['median'])} {row['unit']}".strip(),
            f"{_short(row['least'])}..{_short(row['most'])}",
            f"{row['sign']} {_short(row['goal'])}" if row["goal"] is not None else "",
            reached,
            ""
            if before is None
            else f"{_short(before)} ({(row['median'] / before - 1) * 100:+.0f} %)"
            if before
            else "0",
        )
    console.print(table)
    for note in measures.notes:
        console.print(f"[yellow]{note}[/]")
    judged = [row["reached"] for row in rows(measures, lines) if row["reached"] is not None]
    if judged:
        console.print(f"{sum(judged)} of {len(judged)} goals are reached.")


def rows(measures: Measures, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines that were measured, with what came out."""
    found = ((line, measures.spread(line)) for line in lines)
    return [
        {
            "name": line.name,
            "unit": line.unit,
            **spread._asdict(),
            "sign": line.sign,
            "goal": line.goal,
            "reached": line.is_reached(spread),
        }
        for line, spread in found
        if spread is not None
    ]


def write(measures: Measures, lines: Sequence[Line], kind: str, options: dict[str, Any]) -> Path:
    """Write the JSON file; answers its path."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{kind}-{now:%Y-%m-%dT%H-%M-%S}.json"
    result = {
        "at": now.isoformat(timespec="seconds"),
        "options": options,
        **about(),
        "lines": rows(measures, lines),
        "notes": measures.notes,
        "rounds": measures.rounds,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return path


def about() -> dict[str, Any]:
    """The machine, the versions, and the revision of what is measured."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    return {
        "machine": {
            "system": platform.platform(),
            "cpu": cpu[1] if cpu else platform.processor(),
            "cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "revision": _git("rev-parse", "HEAD").strip(),
        "is_changed": bool(_git("status", "--porcelain", "--", ":!bench/results").strip()),
    }


def plot(measures: Measures, path: Path) -> None:
    """Requests per second of each candidate, with the plain stack as 1."""
    # From the bottom to the top.
    wanted = [
        f"{route}, {connections} connections" for route in ("/log", "/connect") for connections in (128, 32)
    ]
    charted = [measure for measure in wanted if measure in measures.rounds]
    chart = pygal.HorizontalBar(
        title="Requests per second; the plain stack with aiohttp is 1",
        x_title="times as many",
        style=CleanStyle(value_font_size=10),
        height=600,
        js=(),  # no script, least of all from another host
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        truncate_legend=-1,
        print_values=True,
        print_values_position="top",
        value_formatter=lambda value: f"{value:.2f}",
        disable_xml_declaration=True,
    )
    chart.x_labels = charted
    labels = {
        goals.PLAIN_HTTPX: "plain stack, httpx",
        goals.PLAIN: "plain stack, aiohttp",
        goals.HTTP: "Callboard, processes",
        goals.ONE: "Callboard, one process",
        goals.NGINX: "nginx",
        goals.SERVICES: "services alone",
    }
    for candidate, label in labels.items():
        values = []
        for measure in charted:
            rate = measures.median(Value(measure, candidate, "rate"))
            base = measures.median(Value(measure, goals.PLAIN, "rate"))
            values.append(rate / base if rate and base else None)
        if any(values):
            chart.add(label, values)
    chart.render_to_file(str(path))


def _last_committed(kind: str) -> dict[str, float] | None:
    """The medians of the newest result in git, by line."""
    names = _git("ls-tree", "--name-only", "HEAD", "bench/results/").split()
    of_kind = sorted(name for name in names if Path(name).match(f"{kind}-2*.json"))
    if not of_kind:
        return None
    lines = json.loads(_git("show", f"HEAD:{of_kind[-1]}"))["lines"]
    return {line["name"]: line["median"] for line in lines}


def _git(*arguments: str) -> str:
    """What git says; nothing outside of a clone."""
    result = subprocess.run(  # noqa: S603 - git
        ["git", *arguments],  # noqa: S607 - the one on PATH
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
