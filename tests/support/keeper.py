"""Whatever ends a run of tests, `kill -9` too: what it started ends soon after, and its temporary folder goes.

A fixture tidies up better, but not in a process that is killed, and pytest-xdist kills its workers when a run is
interrupted. This file, run as a program, does it: what a run starts inherits its TMPDIR.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress

import psutil


def tidy_up_after_this_process() -> None:
    """From now on, the folder for temporary files is one of this process alone. Call it once."""
    root = os.environ.setdefault(
        "PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()
    )  # pytest keeps its own folders
    folder = tempfile.mkdtemp(prefix="callboard-run-", dir=root)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    ends, _ = os.pipe()  # whose other end is open for as long as this process lives
    keeper = subprocess.Popen((sys.executable, __file__, folder), stdin=ends, start_new_session=True)
    keeper.returncode = 0  # so that nobody complains that it outlives this object
    os.close(ends)


def _started_in(folder: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == folder:
                yield process


def _tidy_up(folder: str) -> None:
    sys.stdin.read()
    while left := list(_started_in(folder)):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _tidy_up(sys.argv[1])
