"""`callboard up`: everything on one machine, under one supervisor."""

import os
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from callboard.components import Options, plan
from callboard.errors import CommandError
from callboard.files import private_dir
from callboard.servers import is_free
from callboard.supervisor import Supervisor
from callboard.system import only_one, stop_leftovers

_START_SECONDS = 120.0


class _ToldToStop(Exception):
    pass


class _Stop:
    """Whether this process was told to stop, by SIGTERM, Ctrl-C, or SIGHUP where nohup does not forbid it."""

    def __init__(self) -> None:
        self.is_told = False
        signal.signal(signal.SIGINT, self._tell)
        signal.signal(signal.SIGTERM, self._tell)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._tell)

    def _tell(self, *_: object) -> None:
        self.is_told = True


def up(options: Options) -> None:
    """Run until told to stop, and leave nothing running. Raises CommandError."""
    os.umask(0o077)  # what the components write is private as well
    stop = _Stop()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    data_dir = private_dir(options.data_dir).resolve()
    with only_one(data_dir):
        for name in stop_leftovers(data_dir):
            console.print(f"Stopped {name}, which an earlier run left behind.")
        if not is_free(options.host, options.port):
            raise CommandError(
                f"Cannot listen on port {options.port} of {options.host}: it is taken, or not yours to use; "
                "choose another with --port."
            )
        supervisor = Supervisor(data_dir, console.print)
        try:
            with suppress(_ToldToStop):
                _start(options, data_dir, supervisor, stop, console)
                _announce(options, console)
            while not stop.is_told:
                try:
                    supervisor.look_after()
                except OSError as error:  # a full disk, for instance, is no reason to stop what runs
                    console.print(f"What died cannot be started again yet: {error}.")
                time.sleep(0.1)
            console.print("Stopping.")
        finally:
            supervisor.stop()


def _start(options: Options, data_dir: Path, supervisor: Supervisor, stop: _Stop, console: Console) -> None:
    began = time.monotonic()
    with console.status(f"Starting Callboard in {options.data_dir}"):
        for stage in plan(options, data_dir):
            for component in stage:
                supervisor.start(component)
            for component in stage:
                while not supervisor.is_ready(component):
                    supervisor.check()
                    if stop.is_told:
                        raise _ToldToStop
                    time.sleep(0.02)
                    if time.monotonic() - began > _START_SECONDS:
                        raise CommandError(
                            f"{component.name} did not get ready within {_START_SECONDS:.0f} s; "
                            f"see {data_dir / 'logs' / component.name}.log."
                        )
                seconds = f"{time.monotonic() - began:5.1f} s"
                console.print(f"{seconds}  {component.name} is {'done' if component.has_an_end else 'ready'}")


def _announce(options: Options, console: Console) -> None:
    keys = options.data_dir / "keys.env"
    console.print(f"\nCallboard is ready: {options.url} (what it offers: {options.url}/docs)")
    if keys.exists():
        # The key goes through a pipe, for a command line can be seen by every user of the machine.
        insecure = " --insecure" if options.tls_cert else ""
        console.print(f"The keys are in {keys}. Try:\n")
        console.print(
            f'  . {shlex.quote(str(keys.absolute()))}; echo "x-api-key: $ROBLOX_KEY" | '
            f"curl -sS -H @-{insecure} '{options.url}/profile?id=1'\n"
        )
    else:
        console.print("This database has keys already; `callboard keys create` makes another.")
    console.print("Ctrl-C stops it.")
