"""What `callboard up` is once all of it is ready: `python -m callboard.watch`, in the same process.

It knows only how to keep running what runs, and waits for signals meanwhile. Measured, that takes 16 MB, where
what also knows how to start holds 40, and no CPU time.
"""

import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from callboard.files import write_private
from callboard.stopping import TO_STOP, listen
from callboard.supervisor import Supervisor

_STATE = "supervisor.json"


class Signals:
    """What this process was told: to stop, by SIGTERM, Ctrl-C, or SIGHUP where nohup does not forbid it."""

    def __init__(self) -> None:
        self.is_told_to_stop = False
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a child that ends wakes as well
        listen(self._tell)

    def wait(self, seconds: float) -> None:
        """Return when a signal comes, at the latest after this time."""
        select.select([self._woken], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._woken, 1024)

    def hold(self) -> bool:
        """Keep back what comes from now on, for the next `Signals` of this process; false if told to stop.

        There must be no other thread.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, TO_STOP)
        return not self.is_told_to_stop

    def _tell(self, *_: object) -> None:
        self.is_told_to_stop = True


def go_on(data_dir: Path, lock: int, supervisor: Supervisor) -> NoReturn:
    """Become this module: the same process, to which the components stay, and the lock of the data folder."""
    write_private(data_dir / _STATE, supervisor.state)
    os.set_inheritable(lock, True)  # by this process alone: what it starts gets no descriptor but its log's
    sys.stdout.flush()
    command = (sys.executable, "-P", "-m", "callboard.watch", str(data_dir))
    os.execv(sys.executable, command)  # noqa: S606 - our own module


def _main(data_dir: Path) -> None:
    state = data_dir / _STATE
    supervisor = Supervisor(data_dir, _tell, state.read_text("utf-8"))
    state.unlink()
    signals = Signals()
    trouble = ""
    try:
        while not signals.is_told_to_stop:
            try:
                pause, trouble = supervisor.look_after(), ""
            except OSError as error:  # a full disk, for instance, is no reason to stop what runs
                if str(error) != trouble:
                    _tell(f"It tries again every second: {error}.")
                trouble, pause = str(error), 1
            signals.wait(pause)
        _tell("Stopping.")
    finally:
        supervisor.stop()


def _tell(line: str) -> None:
    with suppress(OSError):  # nor is it one that nobody reads this any more
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
