"""`callboard restore`: nothing is counted twice or lost, and half of a backup is never taken for all of it."""

import asyncio
import io
import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Coroutine
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import nats
import pytest

from callboard import restore as restoring
from callboard.access import find_settings, open_database, open_databases
from callboard.acts import acts
from callboard.backup import backup
from callboard.databases import collections_of
from callboard.errors import CommandError
from callboard.prepare import set_aside_other_keys
from callboard.restore import restore
from common.errors import ConfigurationError
from common.events import new_id
from common.mongo import check_migrated
from gateway.keys import create_key, list_keys, revoke_key, rotate_key
from tests.accounts.builders import shift_logged
from tests.cli.backup.parks import RUNNING, STRANGE, Saved, contents, log_all, quiet, verified
from tests.cli.machine import CALLBOARD, environment, run
from tests.cli.machine import machine as folder_of_up
from tests.support import unique_id
from tests.support.accounting import ONCE, count
from tests.support.machine import Machine


def of(one: Machine) -> dict[str, str]:
    """The environment of an operator of MongoDB and NATS of his own."""
    return {
        "CALLBOARD_MONGO_URL": one.servers.mongo_url,
        "CALLBOARD_NATS_URL": one.servers.nats_url,
        "CALLBOARD_INTERNAL_TOKEN": one.servers.internal_token,
    }


async def empty(one: Machine) -> None:
    """Remove what makes a restore refuse."""
    async with open_databases(one.settings()) as databases:
        for name, collection in restoring._DATA:
            await databases[name][collection].delete_many({})


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
    recorded = after["gateway.audit"].pop()
    assert recorded["act"] == "restore"
    for name, documents in before.items():
        if not name.endswith(".outbox"):
            assert [one.raw for one in documents] == [one.raw for one in after[name]], name
    (strange,) = after["accounts.of_a_plugin"]
    assert strange.raw == bson.encode(STRANGE)
    rows = {row["_id"]: (row["payload"], row["created_at"]) for row in before["shifts.outbox"]}
    assert {row["_id"]: (row["payload"], row["created_at"]) for row in after["shifts.outbox"]} == rows
    assert not any(row["sent"] for row in after["shifts.outbox"])


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


async def test_a_restore_names_the_keys_that_are_valid_again_and_revokes_them_if_asked(
    fresh: Machine, tmp_path: Path
) -> None:
    await empty(fresh)
    own, file = fresh.settings(), tmp_path / "keys.gz"
    names = [f"{what}-{unique_id()}" for what in ("kept", "revoked", "rotated", "long_gone")]
    kept, revoked, rotated, gone = names
    async with open_database(own, "gateway") as gateway:
        for name in names:
            await create_key(gateway, name=name, scope="roblox", created_by="system")
        await revoke_key(gateway, gone, "system")
        with file.open("wb") as target:
            await backup(own, target, quiet)
        await revoke_key(gateway, revoked, "system")
        await rotate_key(gateway, rotated, timedelta(hours=1), "system")

        with file.open("rb") as source:
            restored = await restore(nullcontext(own), source, quiet)
        changes = {key.name: change for key, change in restored.keys if key.name in names}
        assert changes == {kept: "", revoked: "revoked", rotated: "rotated"}
        act = (await acts(own, 1))[0]
        assert (act["act"], act["text"].startswith("Restored ")) == ("restore", True)

        answer = await run(CALLBOARD, "restore", str(file), "--revoke-keys", **of(fresh))
        assert answer.status == 0, answer.error
        assert "These keys are revoked" in answer.error
        assert all(name in answer.error for name in (kept, revoked, rotated))
        assert gone not in answer.error
        assert not [key for key in await list_keys(gateway) if key.revoked_at is None]
        assert await gateway["audit"].count_documents({"act": "key_revoke", "name": kept}) == 1
        act = (await acts(own, 1))[0]
        assert kept in act["text"]


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
