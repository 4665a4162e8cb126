"""Keeps processes running: starts them again when they die, and stops them in order."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from callboard.errors import CommandError
from callboard.files import private_dir
from callboard.system import SUPERVISOR, Process, running, write_run_file

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_STEADY_SECONDS = 30.0
"""A component that ran this long is started again at once when it dies."""

_STOP_SECONDS = 20.0
_LOG_BYTES = 10_000_000
_LOOK_SECONDS = 60.0
"""How long logs may grow unseen."""

_SENTENCE = re.compile(r"(?:common|callboard)\.errors\.\w+: (.+)")


@dataclass(frozen=True)
class Component:
    """A process to keep running; those of a higher `rank` are stopped before those of a lower one.

    It is ready when its `health_url` answers 200; without one, when its port listens; with an end, once it
    has ended well.
    """

    name: str
    command: tuple[str, ...]
    port: int | None
    rank: int
    env: Mapping[str, str]
    health_url: str | None = None
    has_an_end: bool = False


@dataclass
class _Kept:
    """A component, and the child of ours that is it; `code` is its exit status once it has ended."""

    component: Component
    entry: Process
    started: float
    log_start: int
    code: int | None = None
    pause: float = _FIRST_PAUSE_SECONDS
    due: float | None = None

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        if self.code is None:
            ended, status = os.waitpid(self.entry.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code


class Supervisor:
    """The components of one data folder; run.json lists those that run. `tell` shows a line to the operator."""

    def __init__(self, data_dir: Path, tell: Callable[[str], None], state: str = "[]") -> None:
        """Given the `state` of another one of this process, this one goes on with its components."""
        self._data_dir = data_dir
        self._logs = private_dir(data_dir / "logs")
        self._tell = tell
        self._kept: dict[str, _Kept] = {}
        for kept in json.loads(state):
            component, entry = Component(**kept.pop("component")), Process(**kept.pop("entry"))
            self._kept[component.name] = _Kept(component, entry, **kept)
        self._own_entry = running(SUPERVISOR, os.getpid(), None, None, None)
        self._listed: list[Process] = []

    @property
    def state(self) -> str:
        """All that is known of the components."""
        return json.dumps([asdict(kept) for kept in self._kept.values()])

    def start(self, component: Component) -> None:
        """Start a component, and list it."""
        self._kept[component.name] = self._spawn(component)
        self._write_run_file()

    def check(self) -> None:
        """Raises CommandError when a component has died: while starting up, nothing is started again."""
        for kept in self._kept.values():
            code = kept.poll()
            if code is not None and not (kept.component.has_an_end and code == 0):
                raise CommandError(
                    _sentence_in(self._log(kept.component), kept.log_start)
                    or f"{kept.component.name} {_ended(code)} while it started; see {kept.entry.log}."
                )

    def has_ended_well(self, component: Component) -> bool:
        """Whether a component that has an end has come to it; it is then forgotten."""
        if self._kept[component.name].poll() != 0:
            return False
        del self._kept[component.name]
        self._write_run_file()
        return True

    def look_after(self) -> float:
        """Start again what has died, after a pause that grows while it keeps dying, and shorten the logs.

        Answers the seconds until it is to be called again, if nothing dies before.
        """
        now = time.monotonic()
        for kept in list(self._kept.values()):
            code = kept.poll()
            if code is None:
                continue
            if kept.due is None:
                if now - kept.started > _STEADY_SECONDS:
                    kept.pause = _FIRST_PAUSE_SECONDS
                kept.due = now + kept.pause
                self._tell(f"{kept.component.name} {_ended(code)}; it starts again in {kept.pause:.1f} s.")
            elif now >= kept.due:
                kept.due = now + _LONGEST_PAUSE_SECONDS  # should it not start at all
                again = self._spawn(kept.component)
                again.pause = min(kept.pause * 2, _LONGEST_PAUSE_SECONDS)
                self._kept[kept.component.name] = again
        self._write_run_file()
        for kept in self._kept.values():
            _shorten(self._log(kept.component))
        due = [kept.due for kept in self._kept.values() if kept.due is not None]
        return max(0.0, min([*due, now + _LOOK_SECONDS]) - time.monotonic())

    def stop(self) -> None:
        """Stop everything, and forget run.json."""
        for rank in sorted({kept.component.rank for kept in self._kept.values()}, reverse=True):
            _stop([kept for kept in self._kept.values() if kept.component.rank == rank])
        self._kept.clear()
        (self._data_dir / "run.json").unlink(missing_ok=True)

    def _spawn(self, component: Component) -> _Kept:
        path = self._log(component)
        with path.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(  # noqa: S603 - our own components
                component.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=component.env,
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which stops all in order
            )
        process.returncode = 0  # so that this object leaves the child alone: `_Kept.poll` waits for it
        entry = running(component.name, process.pid, component.port, component.health_url, str(path))
        return _Kept(component, entry, time.monotonic(), log_start)

    def _log(self, component: Component) -> Path:
        return self._logs / f"{component.name}.log"

    def _write_run_file(self) -> None:
        entries = [self._own_entry, *(kept.entry for kept in self._kept.values() if kept.due is None)]
        if entries != self._listed:  # or the last try failed
            write_run_file(self._data_dir, entries)
            self._listed = entries


def _shorten(log: Path) -> None:
    """Set the end of it aside once it is long; who has it open goes on at its new beginning."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        aside = log.with_suffix(".log.1")
        aside.unlink(missing_ok=True)  # on a full disk, that is the room for the copy
        with log.open("rb") as file:
            file.seek(-_LOG_BYTES, os.SEEK_END)
            aside.write_bytes(file.read())
        os.truncate(log, 0)


def _stop(those: Sequence[_Kept]) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    _signal(those, signal.SIGTERM)
    while any(kept.poll() is None for kept in those):
        if time.monotonic() > deadline:
            _signal(those, signal.SIGKILL)
        time.sleep(0.01)


def _signal(those: Sequence[_Kept], number: int) -> None:
    for kept in those:
        if kept.poll() is None:
            os.kill(kept.entry.pid, number)


def _ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"


def _sentence_in(log: Path, start: int) -> str | None:
    """The sentence of the error that ended a component of ours, if it ended by one."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        with suppress(ValueError, AttributeError):
            line = json.loads(line).get("message")
        if found := _SENTENCE.match(str(line).strip().rpartition("\n")[2]):
            return found[1]
    return None
