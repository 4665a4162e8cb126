"""Nothing lost, nothing twice: whole systems under faults, and proof that these tests could fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.run import PROVES_NOTHING
from tests.faults.scenarios import CONTROLS, Control
from tests.support import ROOT


def test_a_short_run_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    assert run_until_it_proves_something("short", 1, tmp_path) == 0


@pytest.mark.long
@pytest.mark.parametrize(("name", "seed"), [("processes", 2), ("unpatched", 3), ("one process", 4)])
def test_a_long_run_loses_nothing_and_counts_nothing_twice(name: str, seed: int, tmp_path: Path) -> None:
    assert run_until_it_proves_something(name, seed, tmp_path) == 0


@pytest.mark.long
@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.scenario.name)
def test_a_broken_promise_is_found(control: Control, tmp_path: Path) -> None:
    found: set[str] = set()
    for seed in range(1, 4):  # on a slow machine, a run may miss the moment at which the weakness shows
        run(control.scenario.name, seed, tmp_path)
        found |= {kind for kind, _ in json.loads((tmp_path / "findings.json").read_text("utf-8"))}
        if control.finds in found:
            break
    assert control.finds in found
    assert found <= {control.finds, *control.may_find}


def run_until_it_proves_something(name: str, seed: int, folder: Path) -> int:
    """The status of the first run that does. On a slow machine, it may be that no event is delivered again."""
    for once_more in range(3):
        status = run(name, seed + 10 * once_more, folder)
        if status != PROVES_NOTHING:
            break
    return status


def run(name: str, seed: int, folder: Path) -> int:
    """The status of a run in a process of its own, whose loop and connections are no concern of other tests."""
    options = ("--run", name, "--first", str(seed), "--findings", str(folder / "findings.json"))
    process = subprocess.Popen((sys.executable, "-m", "tests.faults", *options), cwd=ROOT)
    try:
        return process.wait()
    finally:  # it stops what it started, unless it is killed
        process.terminate()
        process.wait()
