"""What the commands say where MongoDB or NATS refuse: one sentence with the cause and what to do, and never a stack."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from pymongo.errors import PyMongoError
from typer.testing import CliRunner

from callboard.access import open_database
from callboard.databases import migrate_all, migrate_database
from callboard.main import app
from callboard.servers import free_port, listens, mongod, nats_server
from common.settings import Settings
from common.stream import STREAM, SUBJECTS
from tests.support import ROOT, Servers, settings, wait_until

COMMANDS = (
    ("verify",),
    ("verify", "--repair"),
    ("keys", "list"),
    ("keys", "create", "late", "--scope", "roblox"),
    ("keys", "rotate", "roblox"),
    ("keys", "revoke", "none"),
    ("people", "import", "PEOPLE"),
    ("dead-letters", "list"),
    ("dead-letters", "replay"),
    ("dead-letters", "drop", "accounts", "none"),
    ("migrate",),
    ("backup", "BACKUP"),
)


async def callboard(arguments: tuple[str, ...], mongo_url: str, nats_url: str, folder: Path) -> Any:
    """What the command answers; in a thread, as it has an event loop of its own."""
    people = folder / "people.csv"
    people.write_text("id,username,rank\n7,Nobody_7,Guest\n", "utf-8")
    files = {"PEOPLE": str(people), "BACKUP": str(folder / "backup")}
    variables = {
        "CALLBOARD_MONGO_URL": mongo_url,
        "CALLBOARD_NATS_URL": nats_url,
        "CALLBOARD_INTERNAL_TOKEN": "a token of thirty-two characters",
        "CALLBOARD_CONFIG": str(ROOT / "callboard.toml"),
    }
    given = [files.get(one, one) for one in arguments]
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, given, env=variables))


def assert_sentence(answer: Any, beginning: str) -> None:
    assert isinstance(answer.exception, SystemExit), repr(answer.exception)
    assert answer.exit_code == 1
    assert answer.stderr.startswith(beginning)
    assert answer.stderr.count("\n") == 1


@contextmanager
def started(*command: str) -> Iterator[None]:
    """A server, for as long as the context is open."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a mongod that is no member of a replica set."""
    folder = tmp_path_factory.mktemp("alone")
    binary = mongod(folder).command[0]
    (folder / "db").mkdir()
    port = free_port()
    with started(binary, "--dbpath", str(folder / "db"), "--port", str(port), "--bind_ip", "127.0.0.1"):
        await wait_until(lambda: listens(port), 60)
        yield f"mongodb://127.0.0.1:{port}/"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_password_that_mongodb_does_not_take_is_one_sentence(
    command: tuple[str, ...], servers: Servers, tmp_path: Path
) -> None:
    host = servers.mongo_url.partition("@")[2]
    answer = await callboard(command, f"mongodb://callboard:wrong@{host}", servers.nats_url, tmp_path)
    assert_sentence(answer, "MongoDB refused the user or the password: correct CALLBOARD_MONGO_URL. (")
    assert not (tmp_path / "backup").exists()


async def test_a_migration_that_fails_breaks_nothing_off(servers: Servers) -> None:
    host = servers.mongo_url.partition("@")[2]
    refused = settings(Settings, servers, mongo_url=f"mongodb://callboard:wrong@{host}")
    before = asyncio.all_tasks()
    with pytest.raises(PyMongoError):
        await migrate_all(refused)
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("command", [one for one in COMMANDS if one[0] in ("keys", "people")], ids=" ".join)
async def test_a_mongod_that_is_no_member_of_a_replica_set_is_one_sentence(
    command: tuple[str, ...], alone: str, servers: Servers, tmp_path: Path
) -> None:
    answer = await callboard(command, alone, servers.nats_url, tmp_path)
    if command == ("keys", "list"):
        assert answer.exit_code == 0  # it needs no transaction
    else:
        assert_sentence(
            answer, "MongoDB is not a member of a replica set, which Callboard needs: make it one."
        )


async def test_a_url_that_is_none_is_one_sentence(servers: Servers, tmp_path: Path) -> None:
    answer = await callboard(("keys", "list"), "http://127.0.0.1", servers.nats_url, tmp_path)
    assert_sentence(answer, "CALLBOARD_MONGO_URL cannot be used: ")


async def test_status_says_what_is_wrong_with_mongodb(servers: Servers, tmp_path: Path) -> None:
    host = servers.mongo_url.partition("@")[2]
    answer = await callboard(("status",), f"mongodb://callboard:wrong@{host}", servers.nats_url, tmp_path)
    assert answer.exit_code == 1
    assert "unsent events: unknown" in answer.stdout
    assert "of these, refused by NATS: unknown" in answer.stdout
    assert answer.stderr.startswith("MongoDB refused the user or the password")


# ------------------------------------------------------------------------------------------------- NATS


@asynccontextmanager
async def letter(servers: Servers) -> AsyncIterator[None]:
    """A dead letter of notifications, which is still there afterwards."""
    own = settings(Settings, servers)
    for name in ("accounts", "notifications"):
        await migrate_database(own, name)
    async with open_database(own, "notifications") as database:
        letters = database["dead_letters"]
        await letters.insert_one(
            {
                "_id": "refused",
                "subject": f"{SUBJECTS.removesuffix('>')}test.refused.v1",
                "payload": b"{}" * 600,
                "reason": "a test",
                "at": datetime.now(UTC),
            }
        )
        try:
            yield
            assert await letters.count_documents({"_id": "refused"}) == 1
        finally:
            await letters.delete_one({"_id": "refused"})


@pytest.fixture(scope="module")
async def bare(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a nats-server without JetStream, whose second user may publish nothing."""
    folder = tmp_path_factory.mktemp("bare")
    port = free_port()
    (folder / "nats.conf").write_text(
        f'listen: "127.0.0.1:{port}"\nauthorization {{ users: [ {{ user: a, password: b }}, {{ user: mute, '
        'password: b, permissions: { publish: { deny: ">" } } } ] }\n'
    )
    with started(nats_server(folder).command[0], "--config", str(folder / "nats.conf")):
        await wait_until(lambda: listens(port), 60)
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("a:b", "NATS has no stream CALLBOARD, or JetStream is off: start Callboard"),
        ("a:wrong", "NATS refused the user or the password: correct CALLBOARD_NATS_URL."),
        ("mute:b", "NATS does not let this user do that: "),
    ],
)
async def test_a_replay_that_nats_refuses_is_one_sentence_and_keeps_the_letters(
    user: str, sentence: str, bare: str, servers: Servers, tmp_path: Path
) -> None:
    async with letter(servers):
        answer = await callboard(
            ("dead-letters", "replay"), servers.mongo_url, f"nats://{user}@{bare}", tmp_path
        )
    assert_sentence(answer, sentence)


async def test_a_replay_without_nats_is_one_sentence(servers: Servers, tmp_path: Path) -> None:
    async with letter(servers):
        nowhere = f"nats://127.0.0.1:{free_port()}"
        answer = await callboard(("dead-letters", "replay"), servers.mongo_url, nowhere, tmp_path)
    assert_sentence(answer, "NATS does not answer; is Callboard running?")


async def test_a_replay_into_a_full_stream_says_what_to_change(servers: Servers, tmp_path: Path) -> None:
    server = nats_server(tmp_path)
    with started(*server.command):
        await wait_until(lambda: listens(server.port), 60)
        client = await nats.connect(server.url)
        small = StreamConfig(name=STREAM, subjects=[SUBJECTS], max_bytes=512, discard=DiscardPolicy.NEW)
        await client.jetstream().add_stream(small)
        await client.close()
        async with letter(servers):
            answer = await callboard(("dead-letters", "replay"), servers.mongo_url, server.url, tmp_path)
    assert_sentence(answer, "NATS refused: maximum bytes exceeded. Give the stream more room")
