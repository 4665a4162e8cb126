"""`callboard up`: everything on one machine, under one supervisor."""

import os
import shlex
import signal
import threading
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


def up(options: Options) -> None:
    """Run until SIGTERM, SIGHUP or Ctrl-C, and leave nothing running. Raises CommandError."""
    os.umask(0o077)  # what the components write is private as well
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    console = Console(highlight=False, markup=False, soft_wrap=True)
    data_dir = private_dir(options.data_dir).resolve()
    with only_one(data_dir):
        for name in stop_leftovers(data_dir):
            console.print(f"Stopped {name}, which an earlier run left behind.")
        if not is_free(options.host, options.port):
            raise CommandError(
                f"Port {options.port} of {options.host} is taken, or not yours to use: choose another "
                "with --port."
            )
        supervisor = Supervisor(data_dir, console.print)
        try:
            with suppress(_ToldToStop):
                _start(options, data_dir, supervisor, stop, console)
                _announce(options, console)
            while not stop.wait(0.1):
                supervisor.look_after()
            console.print("Stopping.")
        finally:
            supervisor.stop()


def _start(
    options: Options, data_dir: Path, supervisor: Supervisor, stop: threading.Event, console: Console
) -> None:
    began = time.monotonic()
    with console.status(f"Starting Callboard in {options.data_dir}"):
        for stage in plan(options, data_dir):
            for component in stage:
                supervisor.start(component)
            for component in stage:
                while not supervisor.is_ready(component):
                    supervisor.check()
                    if stop.wait(0.02):
                        raise _ToldToStop
                    if time.monotonic() - began > _START_SECONDS:
                        raise CommandError(
                            f"{component.name} did not get ready within {_START_SECONDS:.0f} s; "
                            f"see {data_dir / 'logs' / component.name}.log."
                        )
                console.print(f"{time.monotonic() - began:5.1f} s  {component.name} is ready")


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
