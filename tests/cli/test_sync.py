"""`callboard sync`: asks accounts to read all ranks again, and follows it to the end."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from accounts.repository import Syncs
from callboard.main import app
from common.mongo import Database
from tests.accounts.builders import CAST, Company, outside_database, walker
from tests.support import ROOT, Servers, unique_id, wait_until

CONFIG = (ROOT / "callboard.toml").read_text("utf-8")


@pytest.fixture
def outside(servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The command finds a system whose ranks are kept elsewhere, and the database that is for them."""
    config = tmp_path / "callboard.toml"
    config.write_text(CONFIG.replace('ranking = "local"', 'ranking = "elsewhere"'), "utf-8")
    found = {"MONGO_URL": servers.mongo_url, "NATS_URL": servers.nats_url, "CONFIG": str(config)}
    for name, value in {**found, "INTERNAL_TOKEN": servers.internal_token}.items():
        monkeypatch.setenv(f"CALLBOARD_{name}", value)
    monkeypatch.setattr("callboard.sync.open_database", lambda *_: outside_database(servers))
    yield


async def callboard(*arguments: str) -> Any:
    """What the command answers; in a thread, as it has an event loop of its own."""
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments))


async def begin(database: Database) -> None:
    """No sync was made so far."""
    for name in ("accounts", "syncs"):
        await database[name].delete_many({})


@pytest.mark.usefixtures("outside")
async def test_a_sync_that_is_asked_for_is_followed_to_its_end(servers: Servers) -> None:
    company = Company({unique_id(): CAST for _ in range(3)}, has_list=True)
    async with outside_database(servers) as database:
        await begin(database)
        one, _ = walker(database, company)
        await one.look()  # long over when the next is asked for

        async def is_asked_for() -> bool:
            return (await Syncs(database).find()).requested_at is not None

        for arguments in (("sync",), ("sync", "--json")):
            await database["syncs"].update_one({}, {"$unset": {"requested_at": ""}})
            command = asyncio.create_task(callboard(*arguments))
            await wait_until(is_asked_for)
            await one.look()
            answer = await command
            assert answer.exit_code == 0, answer.output
            if "--json" in arguments:
                told = json.loads(answer.stdout)
                assert (told["seen"], told["changed"], told["missed"]) == (3, 0, 0)
            else:
                assert answer.stdout == "3 members seen, 0 ranks changed.\n"


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("claimed_for", [timedelta(), timedelta(days=365)])
async def test_when_nobody_syncs_that_is_said(
    claimed_for: timedelta, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard.sync._PATIENCE_SECONDS", 0.5)
    async with outside_database(servers) as database:
        await begin(database)
        lease = {"_id": "ranks", "claimed_by": "one with a wrong clock"}
        await database["syncs"].insert_one({**lease, "claimed_until": datetime.now(UTC) + claimed_for})
    answer = await callboard("sync")
    assert answer.exit_code == 1
    assert (
        answer.stderr == "Nothing reads the ranks: is accounts running? See `callboard status` and its log.\n"
    )


@pytest.mark.usefixtures("outside")
async def test_with_ranks_that_are_kept_here_there_is_nothing_to_sync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CALLBOARD_CONFIG", str(ROOT / "callboard.toml"))
    answer = await callboard("sync")
    assert answer.exit_code == 1
    assert answer.stderr == 'The ranking plugin "local" keeps its ranks here: there is nothing to sync.\n'
