"""`callboard up`: everything on one machine, under one supervisor."""

import os
import shlex
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from callboard.components import Options, plan
from callboard.errors import CommandError
from callboard.files import private_dir
from callboard.servers import is_free, listens
from callboard.supervisor import Component, Supervisor
from callboard.system import answers_ok, only_one, stop_leftovers
from callboard.watch import Signals, go_on

_START_SECONDS = 120.0


class _ToldToStop(Exception):
    pass


def up(options: Options) -> None:
    """Run until told to stop, and leave nothing running. Raises CommandError.

    Once all is ready, this process becomes `callboard.watch`, and this does not return.
    """
    os.umask(0o077)  # what the components write is private as well
    signals = Signals()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    data_dir = private_dir(options.data_dir).resolve()
    with only_one(data_dir) as lock:
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
                _start(options, data_dir, supervisor, signals, console)
                _announce(options, console)
                if signals.hold():
                    go_on(data_dir, lock, supervisor)
            console.print("Stopping.")
        finally:
            supervisor.stop()


def _start(
    options: Options, data_dir: Path, supervisor: Supervisor, signals: Signals, console: Console
) -> None:
    began = time.monotonic()
    spinner = Spinner("dots", f"Starting Callboard in {options.data_dir}")
    # Not `console.status`: its thread outlives it for a moment, and would take a signal that `hold` keeps back.
    with Live(spinner, console=console, transient=True, auto_refresh=False) as shown:
        for stage in plan(options, data_dir):
            for component in stage:
                supervisor.start(component)
            for component in stage:
                while not _is_ready(component, supervisor):
                    supervisor.check()
                    shown.refresh()
                    signals.wait(0.02)
                    if signals.is_told_to_stop:
                        raise _ToldToStop
                    if time.monotonic() - began > _START_SECONDS:
                        raise CommandError(
                            f"{component.name} did not get ready within {_START_SECONDS:.0f} s; "
                            f"see {data_dir / 'logs' / component.name}.log."
                        )
                seconds = f"{time.monotonic() - began:5.1f} s"
                console.print(f"{seconds}  {component.name} is {'done' if component.has_an_end else 'ready'}")


def _is_ready(component: Component, supervisor: Supervisor) -> bool:
    if component.has_an_end:
        return supervisor.has_ended_well(component)
    if component.health_url:
        return answers_ok(component.health_url)
    return listens(component.port or 0)


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
