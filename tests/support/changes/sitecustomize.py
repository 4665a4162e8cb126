"""Changes that a test makes in a process that it starts: to what a function does.

Python imports this module at its start when its folder is on PYTHONPATH. CALLBOARD_TEST_CHANGES is a JSON list;
`tests.support.machine` makes its entries.
"""

import functools
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SERVICES = ("accounts", "certifications", "applications", "shifts", "notifications")
_PROCESSES = {f"{service}.main": service for service in _SERVICES} | {"callboard.one_process": "callboard"}


def _changed(function: Callable[..., Any], change: Mapping[str, Any], armed: Path) -> Callable[..., Any]:
    skip = change["skip"]

    @functools.wraps(function)
    async def changed(*args: Any, **kwargs: Any) -> Any:
        nonlocal skip
        is_struck = armed.exists()  # noqa: ASYNC240 - takes no time
        if is_struck and skip:
            is_struck = False
            skip -= 1
        if is_struck and change["do"] == "raise":
            raise ValueError("a bug that the test put here")
        if is_struck and change["do"] == "die before":
            _die(armed)
        result = await function(*args, **kwargs)
        if is_struck:
            _die(armed)
        return result

    return changed


def _die(armed: Path) -> None:
    armed.unlink()  # so that the next start lives
    os.kill(os.getpid(), signal.SIGKILL)


def _make(change: Mapping[str, Any], armed: Path) -> None:
    module, _, path = change["target"].partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, _changed(getattr(owner, name), change, armed))


def _make_all(process: str) -> None:
    folder = Path(os.environ["CALLBOARD_TEST_FOLDER"])
    for change in json.loads(os.environ["CALLBOARD_TEST_CHANGES"]):
        package = change["target"].partition(".")[0]
        if package == process or package not in _SERVICES or process == "callboard":
            _make(change, folder / f"{process}: {change['name']}")


for _module in _PROCESSES.keys() & set(sys.orig_argv):
    _make_all(_PROCESSES[_module])
