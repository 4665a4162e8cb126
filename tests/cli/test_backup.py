"""`callboard backup` and `callboard restore`: all databases of one moment, and nothing that is counted twice or lost."""

import asyncio
import gzip
import io
import json
import os
import stat
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import bson
import nats
import pytest
from bson.raw_bson import RawBSONDocument

from callboard import restore as restoring
from callboard.access import find_settings, open_databases
from callboard.backup import backup
from callboard.backup_file import FORMAT, Header, Reader, Writer
from callboard.databases import collections_of
from callboard.errors import CommandError
from callboard.prepare import set_aside_other_keys
from callboard.restore import restore
from callboard.verify import verify
from common.errors import ConfigurationError
from common.events import new_id
from common.mongo import Database, check_migrated
from common.settings import Settings, read_settings
from tests.accounts.builders import shift_logged
from tests.cli.machine import CALLBOARD, environment, run
from tests.cli.machine import machine as folder_of_up
from tests.support import unique_id, wait_until
from tests.support.accounting import ONCE, count, is_counted, log
from tests.support.machine import Machine, machine

RUNNING = ("accounts", "certifications", "shifts")
STRANGE: dict[str, Any] = {
    "_id": bson.ObjectId(),
    "zulu": bson.Int64(1),
    "alpha": 1,
    "decimal": bson.Decimal128("0.10"),
    "moment": datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
    "bytes": bson.Binary(b"\0\1", 5),
    "pattern": bson.Regex("^a", "i"),
    "stamp": bson.Timestamp(7, 8),
    "nothing": None,
    "nested": {"b": [1.0, {"a": "🎢"}], "a": bson.MinKey()},
}
"""A document of all kinds of values, of a plugin for instance."""


@dataclass(frozen=True)
class Saved:
    """A park, a backup of it, and the people whose shift was acknowledged before the backup was begun."""

    park: Machine
    file: Path
    people: list[int]


@pytest.fixture(scope="module")
async def saved(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Saved]:
    """Backed up while shifts are logged, some are in NATS and not handled yet, and some have not reached NATS."""
    async with machine() as park:
        await park.start(*RUNNING)
        async with park.service("shifts") as client, park.mongodb() as mongodb:
            await mongodb["accounts"]["of_a_plugin"].insert_one(STRANGE)
            handled, waiting, unsent = ([unique_id() for _ in range(20)] for _ in range(3))
            await log_all(park, handled)
            await wait_until(partial(is_counted, park, *handled), 30)
            await park.stop("accounts")
            await log_all(park, waiting)
            await wait_until(lambda: is_sent(mongodb["shifts"]), 30)
            await park.kill("nats-server")
            await log_all(park, unsent)
            file = tmp_path_factory.mktemp("saved") / "backup.gz"
            async with traffic(partial(log, client)):
                answer = await run(CALLBOARD, "backup", str(file), "--data-dir", str(park.folder))
            assert answer.status == 0, answer.error
        await park.start("nats-server", "accounts")
        assert (await verified(park.settings())).is_good
        yield Saved(park, file, [*handled, *waiting, *unsent])


@pytest.fixture(scope="module")
async def fresh() -> AsyncIterator[Machine]:
    """A machine whose databases nobody used yet; it has its first keys."""
    async with machine() as one:
        yield one


@asynccontextmanager
async def traffic(work: Any) -> AsyncIterator[list[int]]:
    """Do `work` for one new person after the other, several at a time; answers the people so far."""
    people: list[int] = []

    async def go_on() -> None:
        while True:
            people.append(unique_id())
            await work(people[-1])

    tasks = [asyncio.create_task(go_on()) for _ in range(4)]
    try:
        yield people
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def log_all(park: Machine, people: list[int]) -> None:
    """Log a shift of each of them, all of which are acknowledged."""
    async with park.service("shifts") as client:
        answers = await asyncio.gather(*(log(client, user) for user in people))
    assert {answer.status_code for answer in answers if answer} == {200}
    assert all(answers)


async def is_sent(database: Database) -> bool:
    """Whether no event of this service waits."""
    return await database["outbox"].count_documents({"sent": False}) == 0


async def verified(settings: Settings) -> Any:
    """The report of `verify`, once all that is under way is done."""
    return await verify(settings, lambda *_: None, patience_seconds=30)


def quiet(*_: object) -> None:
    """Told of the progress, and does nothing."""


def of(one: Machine) -> dict[str, str]:
    """The environment of an operator of MongoDB and NATS of his own."""
    return {
        "CALLBOARD_MONGO_URL": one.servers.mongo_url,
        "CALLBOARD_NATS_URL": one.servers.nats_url,
        "CALLBOARD_INTERNAL_TOKEN": one.servers.internal_token,
    }


def names_in(folder: Path) -> list[str]:
    """What is in this folder."""
    return [path.name for path in folder.iterdir()]


def contents(file: BinaryIO) -> dict[str, list[RawBSONDocument]]:
    """What a backup holds, by collection."""
    reader = Reader(file)
    found: dict[str, list[RawBSONDocument]] = {name: [] for name in reader.header.collections}
    for name, documents in reader.blocks():
        found[name] += documents
    return found


async def test_restored_elsewhere_every_shift_acknowledged_before_the_backup_counts_exactly_once(
    saved: Saved, tmp_path: Path
) -> None:
    async with folder_of_up(tmp_path) as other:
        other.data_dir.mkdir()
        (other.data_dir / "keys.env").write_text("ROBLOX_KEY=cb_roblox_of_an_earlier_start\n")
        answer = await other.callboard("restore", str(saved.file))
        assert answer.status == 0, answer.error
        assert "run `callboard verify --repair`" in answer.error
        assert not (other.data_dir / "run.json").exists()
        await other.up()
        report = json.loads((await other.callboard("verify", "--json")).out)
        assert (report["ok"], report["differences"]) == (True, [])
        async with open_databases(find_settings(other.data_dir)) as databases:
            ledger = Counter([entry["user"] async for entry in databases["accounts"]["ledger"].find()])
            accounts = databases["accounts"]["accounts"].find({"id": {"$in": saved.people}})
            assert [account["points"] async for account in accounts] == [10] * len(saved.people)
            assert {ledger[user] for user in saved.people} == {1}
            assert report["shifts"] == ledger.total() >= len(saved.people)
        assert not (other.data_dir / "keys.env").exists()
        assert await other.knows(saved.park.keys["operator"])
        again = await other.callboard("restore", str(saved.file))
        assert (again.status, again.error) == (
            1,
            f"Callboard already runs in {other.data_dir}: stop it first, or name another folder with --data-dir.\n",
        )


async def test_restored_into_mongodb_and_nats_of_ones_own_a_shift_sent_again_is_the_same(
    saved: Saved, fresh: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fresh.start("accounts")
    monkeypatch.setattr(restoring, "_PATIENCE_SECONDS", 0.5)
    with pytest.raises(CommandError, match=r"Callboard runs \(accounts\): stop all services"):
        await restore(nullcontext(fresh.settings()), io.BytesIO(saved.file.read_bytes()), quiet)
    await fresh.stop("accounts")
    await publish_a_shift_that_is_newer_than_the_backup(fresh)

    with saved.file.open("rb") as source:
        process = await asyncio.create_subprocess_exec(
            *(CALLBOARD, "restore", "-"),
            env=environment(of(fresh)),
            stdin=source,
            stderr=asyncio.subprocess.PIPE,
        )
        _, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    await fresh.start(*RUNNING)
    assert (await verified(fresh.settings())).is_good
    assert await count(fresh, *saved.people) == [ONCE for _ in saved.people]
    await log_all(fresh, saved.people)
    assert await count(fresh, *saved.people) == [ONCE for _ in saved.people]
    await fresh.stop(*RUNNING)

    answer = await run(CALLBOARD, "restore", str(saved.file), **of(fresh))
    assert answer.status == 1
    assert answer.error.startswith(
        "There is data already (shifts.shifts), and a backup replaces all there is"
    )
    async with open_databases(fresh.settings()) as databases:
        for name, database in databases.items():
            await check_migrated(database, collections_of(name))


async def publish_a_shift_that_is_newer_than_the_backup(one: Machine) -> None:
    """It is in NATS, and in no database."""
    event = shift_logged(unique_id(), points=10)
    client = await nats.connect(one.servers.nats_url)
    await client.jetstream().publish(event.SUBJECT, event.model_dump_json().encode())
    await client.close()


async def test_every_document_comes_back_byte_by_byte(saved: Saved, fresh: Machine) -> None:
    await empty(fresh)
    with saved.file.open("rb") as file:
        await restore(nullcontext(fresh.settings()), file, quiet)
        file.seek(0)
        before = contents(file)
    sink = io.BytesIO()
    await backup(fresh.settings(), sink, quiet)
    sink.seek(0)
    after = contents(sink)
    assert list(before) == list(after)
    for name, documents in before.items():
        if not name.endswith(".outbox"):
            assert [one.raw for one in documents] == [one.raw for one in after[name]], name
    (strange,) = after["accounts.of_a_plugin"]
    assert strange.raw == bson.encode(STRANGE)
    rows = {row["_id"]: (row["payload"], row["created_at"]) for row in before["shifts.outbox"]}
    assert {row["_id"]: (row["payload"], row["created_at"]) for row in after["shifts.outbox"]} == rows
    assert not any(row["sent"] for row in after["shifts.outbox"])


async def empty(one: Machine) -> None:
    """Remove what makes a restore refuse."""
    async with open_databases(one.settings()) as databases:
        for name, collection in restoring._DATA:
            await databases[name][collection].delete_many({})


async def test_a_backup_is_of_one_moment_while_writes_go_on(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    park = saved.park
    write = Writer.write

    def slowly(self: Writer, collection: str, documents: bytes) -> None:
        time.sleep(0.1)  # in a thread of its own, so that all goes on meanwhile
        write(self, collection, documents)

    monkeypatch.setattr(Writer, "write", slowly)
    people = await park.people(40, "Cast Member")

    async def certify(_: int) -> None:
        person = people[int(time.monotonic() * 1000) % len(people)]
        for what in ("grant", "revoke"):
            params = {"username": person.username, "certification": "tot", "moderator": "Boss"}
            await trainer.post(f"/certification/{what}", params=params)

    sink = io.BytesIO()
    async with (
        park.service("shifts") as client,
        park.service("certifications") as trainer,
        traffic(partial(log, client)) as logged,
        traffic(certify) as certified,
    ):
        await wait_until(lambda: len(logged) > 20 and len(certified) > 20)
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


async def test_a_backup_that_takes_too_long_says_what_to_set_and_leaves_nothing(
    saved: Saved, tmp_path: Path
) -> None:
    park = saved.park
    script = (
        "import time; from callboard import backup_file as f; w = f.Writer.write; "
        "f.Writer.write = lambda *given: (time.sleep(1.5), w(*given)); from callboard.main import app; app()"
    )
    async with park.mongodb() as client, park.service("shifts") as shifts:
        await client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=1)
        try:
            async with traffic(partial(log, shifts)):
                answer = await run(
                    *(park.components["shifts"].command[0], "-c", script, "backup", str(tmp_path / "backup")),
                    *("--data-dir", str(park.folder)),
                )
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


# ------------------------------------------------------------------------------------------------- damage


def nowhere() -> nullcontext[Settings]:
    """A system that is not there: whoever goes near it fails with another error than a CommandError."""
    url = "mongodb://127.0.0.1:1/?replicaSet=none"
    return nullcontext(
        read_settings(Settings, mongo_url=url, nats_url="nats://127.0.0.1:1", internal_token="-" * 40)
    )


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What may have become of a backup on its way. (A bit that only fills up a byte says nothing: none is flipped.)"""
    plain = gzip.decompress(data)
    for length in (0, 1, 9, 10, 30, len(data) // 2, len(data) - 9, len(data) - 1):
        yield f"cut off after {length}", data[:length]
    for place in range(10, len(data), max(1, len(data) // 200)):  # what is before only says who packed it
        flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        if not packs(flipped, plain):
            yield f"bit flipped at {place}", flipped
    yield "longer", data + b"x"
    yield "twice", data + data
    yield "no backup", b"no backup\n" * 100


def packs(data: bytes, plain: bytes) -> bool:
    """Whether this is a way to pack exactly these bytes."""
    with suppress(EOFError, OSError, zlib.error):
        return gzip.decompress(data) == plain
    return False


async def test_a_file_that_is_not_as_it_was_made_is_refused_before_anything_is_written(saved: Saved) -> None:
    for what, data in damaged(saved.file.read_bytes()):
        try:
            await restore(nowhere(), io.BytesIO(data), quiet)
        except CommandError as error:
            assert str(error).startswith(("This backup is damaged, ", "This is no backup of Callboard.")), (
                what
            )


def made(collection: str, document: dict[str, Any]) -> io.BytesIO:
    """A backup of one document, by Callboard 9.9.9."""
    file = io.BytesIO()
    writer = Writer(file, Header("9.9.9", datetime.now(UTC), [collection]))
    writer.write(collection, bson.encode(document))
    writer.seal()
    return file


async def test_a_backup_that_this_version_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.backup_file.FORMAT", FORMAT + 1)
    newer = made("accounts.ledger", {"_id": 1})
    monkeypatch.undo()
    with pytest.raises(CommandError, match=r"has format 2, .* reads format 1: .* made it, 9\.9\.9\."):
        await restore(nowhere(), newer, quiet)
    unknown = made("rides.rides", {"_id": 1})
    with pytest.raises(CommandError, match=r"no database rides: .* made it, 9\.9\.9\."):
        await restore(nowhere(), unknown, quiet)


async def test_what_was_left_out_or_changed_is_noticed_though_it_was_packed_anew() -> None:
    data = made("accounts.ledger", {"_id": 1, "points": 10}).getvalue()
    document = bson.encode({"_id": 1, "points": 10})
    assert [one.raw for one in contents(io.BytesIO(data))["accounts.ledger"]] == [document]
    plain = gzip.decompress(data)
    block = bson.encode({"collection": "accounts.ledger", "documents": document})
    for forged in (
        plain.replace(block, b""),
        plain.replace(block, block * 2),
        plain.replace(document, bson.encode({"_id": 1, "points": 99})),
        plain.replace(b"9.9.9", b"9.9.8"),
    ):
        assert forged != plain
        with pytest.raises(CommandError, match="its checksum is another"):
            await restore(nowhere(), io.BytesIO(gzip.compress(forged)), quiet)


# ---------------------------------------------------------------------------------------------- half of it


async def test_no_service_starts_on_half_of_a_backup_and_a_restore_begins_anew(
    saved: Saved, fresh: Machine
) -> None:
    await empty(fresh)

    def fail(done: int, total: int) -> None:
        if done > total / 3:
            raise RuntimeError("a test")

    settings = fresh.settings()
    with saved.file.open("rb") as file:
        with pytest.raises(RuntimeError, match="a test"):
            await restore(nullcontext(settings), file, fail)
        async with open_databases(settings) as databases:
            for name, database in databases.items():
                with pytest.raises(ConfigurationError, match=f'"{name}" holds half of a backup'):
                    await check_migrated(database, collections_of(name))
        with pytest.raises(CommandError, match="half of a backup"):
            await backup(settings, io.BytesIO(), quiet)
        await restore(nullcontext(settings), file, quiet)
    async with open_databases(settings) as databases:
        for name, database in databases.items():
            await check_migrated(database, collections_of(name))
        assert await databases["shifts"]["shifts"].count_documents({"user": {"$in": saved.people}}) == len(
            saved.people
        )


async def test_keys_that_the_backup_knows_stay_and_others_are_set_aside(saved: Saved, fresh: Machine) -> None:
    await empty(fresh)
    with saved.file.open("rb") as file:
        await restore(nullcontext(fresh.settings()), file, quiet)
    for folder in (fresh.folder, saved.park.folder):
        (folder / "keys.env.unfinished").touch()
        await set_aside_other_keys(fresh.settings(), folder)
    assert {path.name for path in fresh.folder.glob("keys.env*")} == {"keys.env.replaced"}
    assert {path.name for path in saved.park.folder.glob("keys.env*")} == {"keys.env"}


# ------------------------------------------------------------------------------------------------- memory


async def test_what_is_large_is_never_whole_in_memory(fresh: Machine, tmp_path: Path) -> None:
    await empty(fresh)
    settings, megabyte = fresh.settings(), 1 << 20
    letters = [{"_id": new_id(), "text": os.urandom(2_000)} for _ in range(5_000)]
    async with open_databases(settings) as databases:
        documents = databases["applications"]["documents"]
        for number in range(4):
            await documents.insert_many([{**letter, "_id": f"{number}{letter['_id']}"} for letter in letters])
    with (tmp_path / "large").open("w+b") as file:
        assert await peak_memory(backup(settings, file, quiet)) < 20 * megabyte
        assert file.tell() > 38 * megabyte
        assert await peak_memory(restore(nullcontext(settings), file, quiet)) < 20 * megabyte
    async with open_databases(settings) as databases:
        assert await databases["applications"]["documents"].count_documents({}) == 20_000


async def peak_memory(work: Coroutine[Any, Any, object]) -> int:
    """The most that Python held at any time of this work, in bytes."""
    tracemalloc.start()
    try:
        await work
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
