"""Bounded load from 127.0.0.1: wrk where it is installed, else the bundled generator."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.started import ROOT
from bench.traffic import Kind, Traffic, lua

WRK = shutil.which("wrk")


@dataclass(frozen=True)
class Answered:
    """One round: successful requests per second, milliseconds, and the share of a core that it took to send."""

    rate: float
    requests: int
    failed: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    sender_cores: float = 0.0
    statuses: Mapping[str, int] = field(default_factory=dict)
    """How often which status came, of those that failed; wrk does not tell."""


def generator_name() -> str:
    """What `closed` uses."""
    return (
        f"wrk ({WRK}, one thread)"
        if WRK
        else "the bundled generator (bench/generator.py; wrk is not installed)"
    )


def closed(
    traffic: Traffic, connections: int, seconds: int, folder: Path, *, bundled: bool = False
) -> Answered:
    """As many requests as the server answers; each connection sends when it is answered."""
    if bundled or WRK is None:
        return open_or_closed([traffic], connections, seconds, rate=None)[traffic.kind]
    script = folder / "wrk.lua"
    script.unlink(missing_ok=True)
    with os.fdopen(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(lua(traffic))
    command = [WRK, "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "10s", "--latency", "--script", str(script), f"http://127.0.0.1:{traffic.port}/"]
    try:
        with _cpu_of_children() as cpu:
            result = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True)  # noqa: S603 - wrk
    finally:
        script.unlink()
    told: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    elapsed, lost, refused = told.pop("seconds"), told.pop("lost"), told.pop("refused")
    return Answered(
        rate=(told["requests"] - refused) / elapsed,
        failed=refused + lost,
        sender_cores=cpu() / elapsed,
        **told,
    )


def open_or_closed(
    traffic: Sequence[Traffic], connections: int, seconds: float, *, rate: float | None
) -> dict[Kind, Answered]:
    """The bundled generator: at a constant `rate` of all traffic together, or closed without one."""
    with _cpu_of_children() as cpu, sending(traffic, connections, seconds, rate=rate) as windows:
        (told,) = windows
    return {kind: Answered(**values, sender_cores=cpu() / seconds) for kind, values in told.items()}


@contextmanager
def sending(
    traffic: Sequence[Traffic],
    connections: int,
    seconds: float,
    *,
    rate: float | None,
    window: float | None = None,
) -> Iterator[Iterator[dict[Kind, dict[str, Any]]]]:
    """The bundled generator at work in a process of its own; yields each window's counts when it is over."""
    task = {
        "traffic": [asdict(one) for one in traffic],
        "connections": connections,
        "seconds": seconds,
        "rate": rate,
        "window": window,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.generator"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdin and process.stdout  # noqa: S101 - pipes, as asked for
        process.stdin.write(json.dumps(task).encode())  # not on the command line: it holds a key
        process.stdin.close()
        yield map(json.loads, process.stdout)
        process.wait()
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextmanager
def _cpu_of_children() -> Iterator[Callable[[], float]]:
    """Answers the CPU seconds of the processes that ended meanwhile."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    yield lambda: used() - before
