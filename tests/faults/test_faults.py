"""Nothing lost, nothing twice: whole systems under faults, and proof that these tests could fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.scenarios import CONTROLS, Control
from tests.support import ROOT


def test_a_short_run_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    assert run("short", 1, tmp_path) == 0


@pytest.mark.long
@pytest.mark.parametrize(("name", "seed"), [("processes", 2), ("unpatched", 3), ("one process", 4)])
def test_a_long_run_loses_nothing_and_counts_nothing_twice(name: str, seed: int, tmp_path: Path) -> None:
    assert run(name, seed, tmp_path) == 0


@pytest.mark.long
@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.scenario.name)
def test_a_broken_promise_is_found(control: Control, tmp_path: Path) -> None:
    run(control.scenario.name, 1, tmp_path)
    found = {kind for kind, _ in json.loads((tmp_path / "findings.json").read_text("utf-8"))}
    assert control.finds in found
    assert found <= {control.finds, *control.may_find}


def run(name: str, seed: int, folder: Path) -> int:
    """The status of a run in a process of its own, whose loop and connections are no concern of other tests."""
    options = ("--run", name, "--first", str(seed), "--findings", str(folder / "findings.json"))
    process = subprocess.Popen((sys.executable, "-m", "tests.faults", *options), cwd=ROOT)
    try:
        return process.wait()
    finally:  # it stops what it started, unless it is killed
        process.terminate()
        process.wait()
