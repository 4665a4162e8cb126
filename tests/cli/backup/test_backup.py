"""`callboard backup`: all databases of one moment, while Callboard runs, in one file that is there when it is whole."""

import asyncio
import io
import signal
import stat
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from callboard.backup import backup
from callboard.backup_file import Writer
from tests.cli.backup.parks import Saved, contents, names_in, quiet, traffic
from tests.cli.machine import CALLBOARD, environment, run
from tests.support import wait_until
from tests.support.accounting import log
from tests.support.machine import Machine


async def test_a_backup_is_of_one_moment_while_writes_go_on(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    park = saved.park
    write = Writer.write

    def slowly(self: Writer, collection: str, documents: bytes) -> None:
        enough, deadline = len(logged) + 3, time.monotonic() + 30
        while len(logged) < enough and time.monotonic() < deadline:
            time.sleep(0.01)  # in a thread of its own, so that all goes on meanwhile
        write(self, collection, documents)

    monkeypatch.setattr(Writer, "write", slowly)
    monkeypatch.setattr("callboard.backup._AWAY_SECONDS", 60.0)  # beside all that is written
    people = await park.people(40, "Cast Member")

    async def certify(_: int) -> None:
        person = people[int(time.monotonic() * 1000) % len(people)]
        for what in ("grant", "revoke"):
            params = {"username": person.username, "certification": "tot", "moderator": "400000000000000004"}
            await trainer.post(f"/certification/{what}", params=params)

    async def is_told_of_certifications() -> bool:
        return await mongodb["shifts"]["members"].find_one() is not None

    sink = io.BytesIO()
    async with (
        park.mongodb() as mongodb,
        park.service("shifts") as client,
        park.service("certifications") as trainer,
        traffic(partial(log, client)) as logged,
        traffic(certify) as certified,
    ):
        await wait_until(lambda: len(logged) > 20 and len(certified) > 20)
        await wait_until(is_told_of_certifications)
        before = len(logged)
        await backup(park.settings(), sink, quiet)
        assert len(logged) > before + 20
    sink.seek(0)
    found = contents(sink)

    shifts = {shift["_id"]: shift for shift in found["shifts.shifts"]}
    assert {row["_id"] for row in found["shifts.outbox"]} == set(shifts)
    worked = Counter(shift["user"] for shift in shifts.values())
    assert worked == {sheet["_id"]: sheet["shifts"] for sheet in found["shifts.timesheets"]}
    ledger = found["accounts.ledger"]
    assert {entry["_id"] for entry in ledger} <= set(shifts)
    earned: Counter[int] = Counter()
    for entry in ledger:
        earned[entry["user"]] += entry["points"]
    totals = {account["id"]: account["points"] for account in found["accounts.accounts"]}
    assert {user: points for user, points in totals.items() if points} == earned

    owned = {(one["user"], one["code"]): one["version"] for one in found["certifications.certifications"]}
    copies = [(one["id"], one) for one in found["accounts.accounts"]]
    copies += [(one["_id"], one) for one in found["shifts.members"]]
    versions = [
        (user, code, known["version"])
        for user, one in copies
        for code, known in one.get("certifications", {}).items()
    ]
    assert versions
    assert not [one for one in versions if one[2] > owned[one[0], one[1]]]


def slow_backup(park: Machine, file: Path) -> tuple[str, ...]:
    """The command that makes one and takes a second and a half for each block."""
    script = (
        "import time; from callboard import backup_file as f; w = f.Writer.write; "
        "f.Writer.write = lambda *given: (time.sleep(1.5), w(*given)); from callboard.__main__ import main; main()"
    )
    return sys.executable, "-c", script, "backup", str(file), "--data-dir", str(park.folder)


async def test_a_backup_that_takes_too_long_says_what_to_set_and_leaves_nothing(
    saved: Saved, tmp_path: Path
) -> None:
    park = saved.park
    async with park.mongodb() as client, park.service("shifts") as shifts:
        await client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=1)
        try:
            async with traffic(partial(log, shifts)):
                answer = await run(*slow_backup(park, tmp_path / "backup"))
        finally:
            await client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=300)
    assert answer.status == 1
    assert answer.error.startswith("MongoDB does not keep the moment of this backup any more.")
    assert "minSnapshotHistoryWindowInSeconds" in answer.error
    assert names_in(tmp_path) == []


async def test_the_file_is_for_its_owner_only_and_replaces_nothing(saved: Saved, tmp_path: Path) -> None:
    assert stat.S_IMODE(saved.file.stat().st_mode) == 0o600
    assert names_in(saved.file.parent) == [saved.file.name]
    before = saved.file.read_bytes()
    answer = await run(CALLBOARD, "backup", str(saved.file), "--data-dir", str(saved.park.folder))
    assert answer.status == 1
    assert answer.error == f"{saved.file} exists, and a backup takes the place of nothing.\n"
    assert saved.file.read_bytes() == before
    nowhere = tmp_path / "none" / "backup"
    answer = await run(CALLBOARD, "backup", str(nowhere), "--data-dir", str(saved.park.folder))
    assert (answer.status, answer.error.count("\n")) == (1, 1)
    assert answer.error.startswith(f"The backup cannot be written to {nowhere}")


async def test_a_backup_goes_to_standard_output_and_nothing_else_does(saved: Saved) -> None:
    process = await asyncio.create_subprocess_exec(
        *(CALLBOARD, "backup", "-", "--data-dir", str(saved.park.folder)),
        env=environment({}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    assert len(contents(io.BytesIO(out))["shifts.shifts"]) >= len(saved.people)
    assert error.decode().startswith("Backed up ")


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
async def test_a_backup_that_is_told_to_stop_leaves_nothing(
    saved: Saved, tmp_path: Path, told: signal.Signals
) -> None:
    process = await asyncio.create_subprocess_exec(
        *slow_backup(saved.park, tmp_path / "backup"), env=environment({}), stderr=asyncio.subprocess.PIPE
    )
    await wait_until(lambda: bool(names_in(tmp_path)), 30)
    process.send_signal(told)
    _, error = await process.communicate()
    assert process.returncode
    assert "Traceback" not in error.decode()
    assert names_in(tmp_path) == []


async def test_a_backup_on_a_full_disk_says_so_and_leaves_nothing(saved: Saved, tmp_path: Path) -> None:
    backup_to = f"exec {CALLBOARD} backup --data-dir {saved.park.folder}"
    file = tmp_path / "backup"
    # The disk is as full as it can be made here: no file may be longer than one block.
    answer = await run("sh", "-c", f"ulimit -f 1; {backup_to} {file}")
    assert (answer.status, answer.error) == (1, f"The backup cannot be written to {file}: File too large.\n")
    assert names_in(tmp_path) == []
    answer = await run("sh", "-c", f"{backup_to} - > /dev/full")
    assert (answer.status, answer.error) == (
        1,
        "The backup cannot be written to -: No space left on device.\n",
    )
