"""Ctrl-C and SIGTERM end every command with one sentence, at whatever moment they come, and leave nothing half done.

The moments are spread from the start of the command to a little after the time that it takes. Python's own start, the
first hundredth of a second, is left out: the signals are kept back until the first line of ours runs.
"""

import asyncio
import os
import random
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from callboard.access import open_databases
from common.mongo import RESTORING
from tests.cli.backup.parks import Saved, contents, names_in
from tests.cli.backup.test_restore import empty, of
from tests.cli.machine import CALLBOARD, Answer, environment
from tests.support import ROOT, wait_until
from tests.support.machine import Machine

MOMENTS = 26
AT_ONCE = 3
COMPLETE = "Start Callboard; then run"
"""What a restore says last, below the keys that it brought back."""
TO_STOP = (signal.SIGINT, signal.SIGTERM)

Ending = tuple[signal.Signals, Answer]


async def stopped(
    command: Sequence[str], number: signal.Signals | None, seconds: float, **variables: str
) -> Answer:
    """What a command printed that got the signal after so many seconds, and its exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TO_STOP)  # a child starts with this mask
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment(variables), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_STOP)
    answering = asyncio.create_task(process.communicate())
    await asyncio.sleep(seconds)
    if number is not None and process.returncode is None:
        process.send_signal(number)
    out, error = await answering
    assert process.returncode is not None
    return Answer(process.returncode, out.decode(errors="replace"), error.decode())


async def endings(
    command: Callable[[int], Sequence[str]],
    prepare: Callable[[], Awaitable[None]] | None = None,
    **variables: str,
) -> AsyncIterator[Ending]:
    """How the command ended, stopped at each of the moments by one of the signals; `command` is told which it is."""
    if prepare:
        await prepare()
    began = time.monotonic()
    assert (await stopped(command(MOMENTS), None, 0, **variables)).status == 0
    longest = 1.1 * (time.monotonic() - began)
    chance = random.Random(29)  # noqa: S311 - the same moments each time
    at_once = 1 if prepare else AT_ONCE

    async def end(moment: int) -> Ending:
        if prepare:
            await prepare()
        number = TO_STOP[moment % 2]
        seconds = longest * (moment + chance.random()) / MOMENTS
        return number, await stopped(command(moment), number, seconds if moment else 0, **variables)

    for first in range(0, MOMENTS, at_once):
        for ending in await asyncio.gather(*map(end, range(first, min(first + at_once, MOMENTS)))):
            yield ending


def assert_clean(number: signal.Signals, answer: Answer) -> None:
    """It came to its end before the signal did, or it was ended by the signal and says so in one line."""
    assert "Traceback" not in answer.error, answer.error
    assert answer.status in (0, -number), answer
    by = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    if COMPLETE in answer.error:
        # What comes after the last line of a command, Python's own end, says nothing any more.
        return
    if answer.status:
        assert answer.error.startswith(f"Stopped by {by}.") or answer.error.count("\n") <= 1, answer.error
    assert answer.error.count("\n") <= 1, answer.error


async def test_a_backup_that_is_told_to_stop_leaves_all_of_the_file_or_nothing(
    saved: Saved, tmp_path: Path
) -> None:
    def command(moment: int) -> Sequence[str]:
        (tmp_path / str(moment)).mkdir()
        file = tmp_path / str(moment) / "backup"
        return CALLBOARD, "backup", str(file), "--data-dir", str(saved.park.folder)

    statuses = set()
    async for number, answer in endings(command):
        assert_clean(number, answer)
        statuses.add(answer.status)
    assert {-one for one in TO_STOP} <= statuses
    for moment in range(MOMENTS + 1):
        left = names_in(tmp_path / str(moment))
        assert left in ([], ["backup"])
        if left:
            with (tmp_path / str(moment) / "backup").open("rb") as file:
                assert contents(file)["shifts.shifts"]


async def test_a_repair_that_is_told_to_stop_says_so_in_one_line(saved: Saved) -> None:
    command = (CALLBOARD, "verify", "--repair", "--data-dir", str(saved.park.folder))
    async for number, answer in endings(lambda _: command):
        assert_clean(number, answer)


async def test_a_restore_that_is_told_to_stop_says_that_half_of_it_may_be_there(
    saved: Saved, fresh: Machine
) -> None:
    async def prepare() -> None:
        await empty(fresh)
        for database in databases.values():
            await database.drop_collection(RESTORING)

    command = (CALLBOARD, "restore", str(saved.file))
    async with open_databases(fresh.settings()) as databases:
        async for number, answer in endings(lambda _: command, prepare, **of(fresh)):
            assert_clean(number, answer)
            if RESTORING in await databases["gateway"].list_collection_names():
                assert "may hold half of the backup" in answer.error, answer
                assert answer.error.count("\n") == 1
            else:
                shifts = await databases["shifts"]["shifts"].count_documents({})
                assert shifts == 0 or shifts >= len(saved.people)


@pytest.mark.parametrize("number", TO_STOP)
async def test_a_restore_that_is_told_to_stop_stops_the_servers_that_it_started(
    number: signal.Signals, saved: Saved, tmp_path: Path
) -> None:
    folder = tmp_path / "data"

    async def stop_once(what: Callable[[], bool]) -> Answer:
        process = await asyncio.create_subprocess_exec(
            *(CALLBOARD, "restore", str(saved.file), "--data-dir", str(folder)),
            env=environment({}),
            stderr=PIPE,
        )
        await wait_until(lambda: what() or process.returncode is not None)
        process.send_signal(number)
        _, error = await process.communicate()
        return Answer(process.returncode or 0, "", error.decode())

    def runs(name: str) -> Callable[[], bool]:
        return lambda: (folder / "run.json").exists() and name in (folder / "run.json").read_text("utf-8")

    for what in (folder.exists, runs("mongod"), runs("nats-server")):
        answer = await stop_once(what)
        assert answer.status == -number
        assert_clean(number, answer)
        assert not processes_of(folder)
        assert not (folder / "run.json").exists()


def processes_of(folder: Path) -> list[Any]:
    """The processes that were started with this folder."""
    found = psutil.process_iter(["cmdline"])
    return [
        one for one in found if str(folder) in " ".join(one.info["cmdline"] or ()) and one.pid != os.getpid()
    ]
