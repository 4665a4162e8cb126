"""What a data folder tells about the system that runs, or ran, in it."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from callboard.errors import CommandError
from callboard.files import write_private

SECRETS = ("mongo_url", "nats_url", "internal_token")
SUPERVISOR = "supervisor"
_CLOCK_TOLERANCE_SECONDS = 2.0
_TICK_SECONDS = 0.02


@dataclass(frozen=True)
class Process:
    """One entry of run.json; `created` (Unix s) tells the process from a later one of the same pid.

    So does `after_boot` (s), once the clock was set: what the system answers for `created` then moves with it.
    """

    name: str
    pid: int
    port: int | None
    health_url: str | None
    log: str | None
    created: float
    after_boot: float = 0.0

    def find(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with suppress(psutil.Error):
            found = psutil.Process(self.pid)
            created = found.create_time()
            is_same = (
                abs(created - self.created) < _CLOCK_TOLERANCE_SECONDS
                or abs(created - psutil.boot_time() - self.after_boot) < _TICK_SECONDS
            )
            if is_same and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None


def running(name: str, pid: int, port: int | None, health_url: str | None, log: str | None) -> Process:
    """The entry of a process that runs, or that nobody has waited for yet."""
    created = psutil.Process(pid).create_time()
    return Process(name, pid, port, health_url, log, created, created - psutil.boot_time())


def read_run_file(data_dir: Path) -> list[Process]:
    """What run.json lists, in the order of starting; nothing when there is none."""
    try:
        return [Process(**entry) for entry in json.loads((data_dir / "run.json").read_text("utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise CommandError(
            f"{data_dir / 'run.json'} is damaged ({error}): see that no mongod and no nats-server of this folder "
            "runs, and remove it."
        ) from error


def write_run_file(data_dir: Path, processes: Sequence[Process]) -> None:
    """Put this list in place of the one before it."""
    write_private(data_dir / "run.json", json.dumps([asdict(process) for process in processes], indent=1))


@contextmanager
def only_one(data_dir: Path) -> Iterator[int]:
    """Hold the data folder for this process alone; the lock ends with the process, however it ends.

    Answers the file descriptor of the lock. Raises CommandError when another holds it.
    """
    descriptor = os.open(data_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandError(
            f"Callboard already runs in {data_dir}: stop it first, or name another folder with --data-dir."
        ) from None
    else:
        yield descriptor
    finally:
        os.close(descriptor)


def stop_leftovers(data_dir: Path) -> list[str]:
    """Stop what a killed supervisor left running, last started first; answers the names."""
    stopped = []
    for process in reversed(read_run_file(data_dir)):
        if process.name == SUPERVISOR or (found := process.find()) is None:
            continue
        with suppress(psutil.NoSuchProcess):
            found.terminate()
            try:
                found.wait(20)
            except psutil.TimeoutExpired:
                found.kill()
                found.wait(5)
        stopped.append(process.name)
    (data_dir / "run.json").unlink(missing_ok=True)
    return stopped


def answers_ok(url: str) -> bool:
    """Whether a GET answers 200 within two seconds; whose certificate it is does not matter."""
    import http.client  # not above, for the supervisor: it would hold them for good, and never asks
    import ssl

    parts = urlsplit(url)
    connection = (
        http.client.HTTPSConnection(parts.netloc, timeout=2, context=ssl._create_unverified_context())  # noqa: S323
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.netloc, timeout=2)
    )
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
