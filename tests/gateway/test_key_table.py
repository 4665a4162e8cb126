"""What the gateway knows of keys, how soon, and for how long without its database."""

import asyncio
import hashlib
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import httpx
import pymongo
import pytest
from pydantic import SecretStr

from common.background import background
from common.errors import Unavailable
from common.mongo import Database, connect, migrate
from gateway.errors import WrongKey
from gateway.keys import COLLECTIONS, KeyTable, create_key, list_keys, revoke_key, rotate_key
from gateway.main import create
from gateway.settings import GatewaySettings
from tests.gateway.builders import echoes, make_key, open_database, open_gateway, plant, unique_name
from tests.gateway.relay import Relay, relayed
from tests.support import Servers, settings, unique_id, wait_until


def far_mongo_url(servers: Servers, relay: Relay) -> str:
    """The test run's MongoDB, through the relay."""
    parts = urlsplit(servers.mongo_url)
    return (
        f"mongodb://{parts.username}:{parts.password}@127.0.0.1:{relay.port}/"
        "?directConnection=true&serverSelectionTimeoutMS=200"
    )


@asynccontextmanager
async def far_database(servers: Servers) -> AsyncIterator[tuple[Database, Relay]]:
    """The gateway's database, and the network to it."""
    async with relayed(urlsplit(servers.mongo_url).port or 0) as relay:
        own = settings(GatewaySettings, servers, mongo_url=SecretStr(far_mongo_url(servers, relay)))
        client, database = connect(own, "gateway")
        async with client:
            yield database, relay


class Commands(pymongo.monitoring.CommandListener):
    """Counts the commands that a client sends."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        self.seen[event.command_name] += 1

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        pass


@asynccontextmanager
async def open_watched(servers: Servers, commands: Commands) -> AsyncIterator[Database]:
    """The gateway's database, its commands counted."""
    client: pymongo.AsyncMongoClient[dict[str, Any]] = pymongo.AsyncMongoClient(
        servers.mongo_url, event_listeners=[commands], tz_aware=True
    )
    async with client:
        yield client["gateway"]


async def status_of(client: httpx.AsyncClient, key: str) -> int:
    return (await client.get("/profile", headers={"x-api-key": key})).status_code


async def becomes(client: httpx.AsyncClient, key: str, status: int) -> float:
    """Seconds until the key is answered so."""
    started = time.monotonic()

    async def is_so() -> bool:
        return await status_of(client, key) == status

    await wait_until(is_so, 60)
    return time.monotonic() - started


async def test_a_key_works_at_the_first_request_after_it_was_made(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    for _ in range(5):
        assert await status_of(client, await make_key(servers)) == 200


async def test_a_revoked_key_is_refused_within_a_second(client: httpx.AsyncClient, servers: Servers) -> None:
    async def seconds_to_revoke() -> float:
        name = unique_name()
        key = await make_key(servers, name=name)
        assert await status_of(client, key) == 200
        async with open_database(servers) as database:
            await revoke_key(database, name, by="the tests")
        return await becomes(client, key, 401)

    for tries_left in reversed(range(5)):
        seconds = await seconds_to_revoke()
        if seconds < 1:
            break
        assert tries_left, seconds  # the machine of the tests may pause for a moment, but not each time


async def test_a_revoked_key_is_refused_also_when_the_clock_of_the_database_was_ahead(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.keys._READ_ALL_EVERY_SECONDS", 0.2)
    connection, database = connect(settings(GatewaySettings, servers), f"keys_{unique_id()}")
    async with connection:
        await migrate(database, COLLECTIONS)
        key = await create_key(database, name="game", scope="roblox", created_by="the tests")
        an_hour_ahead = datetime.now(UTC) + timedelta(hours=1)
        await database["keys"].update_one({}, {"$set": {"changed_at": an_hour_ahead}})
        table = KeyTable(database)
        assert (await table.find(key)).name == "game"
        await revoke_key(database, "game", by="the tests")

        async def is_refused() -> bool:
            await table.refresh()
            try:
                await table.find(key)
            except WrongKey:
                return True
            return False

        await wait_until(is_refused)


async def test_a_key_is_refused_from_the_moment_it_expires(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    for seconds in (2, 8, 32):  # the longer ones for a machine that is too slow to use it in time
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        key = await make_key(servers, expires_at=expires_at)
        status = await status_of(client, key)
        if datetime.now(UTC) < expires_at:
            break
    assert status == 200
    await becomes(client, key, 401)
    assert datetime.now(UTC) >= expires_at


async def test_both_keys_work_during_the_overlap_of_a_rotation_and_then_only_the_new_one(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    for seconds in (2, 8, 32):  # the longer ones for a machine that is too slow to use the old one in time
        name = unique_name()
        old = await make_key(servers, name=name)
        async with open_database(servers) as database:
            new = await rotate_key(database, name, timedelta(seconds=seconds), by="the tests")
            ends = next(key.expires_at for key in await list_keys(database) if key.name == name)
        assert ends is not None
        statuses = [await status_of(client, key) for key in (new, old)]
        if datetime.now(UTC) < ends:
            break
    assert statuses == [200, 200]
    await becomes(client, old, 401)
    assert ends is not None and datetime.now(UTC) >= ends
    assert await status_of(client, new) == 200


async def test_unknown_keys_share_their_look_into_the_database(servers: Servers) -> None:
    commands = Commands()
    async with open_watched(servers, commands) as database:
        table = KeyTable(database)
        wrong = [f"cb_roblox_{secrets.token_urlsafe(32)}" for _ in range(500)]
        results = await asyncio.gather(*map(table.find, wrong), return_exceptions=True)
        assert {type(result) for result in results} == {WrongKey}
        assert commands.seen["find"] <= 2
        before = time.monotonic()
        for key in wrong[:5]:
            with pytest.raises(WrongKey):
                await table.find(key)
        assert time.monotonic() - before >= 4 * 0.05


async def test_a_key_of_a_scope_that_only_a_newer_version_knows_opens_nothing(servers: Servers) -> None:
    name = unique_name()
    await make_key(servers, name=name)
    plain = await make_key(servers)
    async with open_gateway(servers, echoes()) as client, open_database(servers) as database:
        staff = "cb_staff_" + secrets.token_urlsafe(32)
        changes = {"scope": "staff", "hash": hashlib.sha256(staff.encode()).digest(), "newer": {"a": 1}}
        await plant(database, name, changes)
        assert await status_of(client, staff) == 403
        assert await status_of(client, plain) == 200
    async with open_gateway(servers, echoes()) as client:  # and at its start
        assert await status_of(client, staff) == 403
        assert await status_of(client, plain) == 200


@pytest.mark.parametrize("odd", [{"rate": "5/fortnight"}, {"networks": ["home"]}, {"places": "all"}])
async def test_a_key_whose_limits_cannot_be_read_opens_nothing_and_closes_nothing(
    servers: Servers, odd: dict[str, Any]
) -> None:
    name = unique_name()
    secret, plain = await make_key(servers, name=name), await make_key(servers)
    async with open_gateway(servers, echoes()) as client, open_database(servers) as database:
        assert await status_of(client, secret) == 200
        await plant(database, name, odd)

        async def is_closed() -> bool:
            return await status_of(client, secret) == 401

        await wait_until(is_closed)
        later = await make_key(servers)
        assert [await status_of(client, key) for key in (secret, plain, later)] == [401, 200, 200]
        await revoke_key(database, name, by="the tests")
        await database["keys"].delete_one({"name": name})


async def test_what_cannot_be_a_key_is_refused_without_a_look(servers: Servers) -> None:
    async with far_database(servers) as (database, relay):
        await relay.cut()
        table = KeyTable(database)
        for wrong in (
            "x",
            "cb_Admin_" + "A" * 43,
            "cb_roblox_" + "A" * 42,
            "cb_roblox_" + "ä" * 43,
            "\0",
            "A" * 9000,
        ):
            with pytest.raises(WrongKey):
                await table.find(wrong)


async def test_known_keys_pass_while_the_database_is_away_and_others_get_503(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_PATIENCE", "1")
    known, revoked_name = await make_key(servers), unique_name()
    revoked = await make_key(servers, name=revoked_name)
    async with relayed(urlsplit(servers.mongo_url).port or 0) as relay:
        mongo_url = SecretStr(far_mongo_url(servers, relay))
        app = create(settings(GatewaySettings, servers, mongo_url=mongo_url), dict(echoes()))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as cut_off,
        ):
            for key in (known, revoked):
                await becomes(cut_off, key, 200)
            await relay.cut()
            unknown = await make_key(servers)
            async with open_database(servers) as database:
                await revoke_key(database, revoked_name, by="the tests")
            assert await status_of(cut_off, known) == await status_of(cut_off, revoked) == 200
            response = await cut_off.get("/profile", headers={"x-api-key": unknown})
            assert response.status_code == 503
            assert response.text == '{"status":"error","message":"database is unavailable, try again"}'
            assert response.headers["Retry-After"]
            assert (await cut_off.get("/readyz")).status_code == 503
            assert (await cut_off.get("/healthz")).status_code == 200
            await relay.restore()
            await becomes(cut_off, revoked, 401)
            await becomes(cut_off, unknown, 200)
            assert await status_of(cut_off, known) == 200


async def test_after_too_long_without_the_database_known_keys_get_503_until_it_is_back(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_PATIENCE", "1")
    monkeypatch.setattr("gateway.keys._READ_EVERY_SECONDS", 0.1)
    key = await make_key(servers)
    async with far_database(servers) as (database, relay):
        table = KeyTable(database, grace_seconds=1.0)
        async with background(table.run):

            async def is_refused() -> bool:
                try:
                    await table.find(key)
                except Unavailable:
                    return True
                return False

            async def passes() -> bool:
                return not await is_refused()

            await wait_until(passes)
            await relay.cut()
            await wait_until(is_refused)
            await relay.restore()
            await wait_until(passes)


async def test_the_last_use_of_a_key_is_written_at_most_once_a_minute(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    key = await make_key(servers)
    digest = hashlib.sha256(key.encode()).digest()
    async with open_database(servers) as database:

        async def last_used_at() -> datetime | None:
            found = await database["keys"].find_one({"hash": digest})
            return found["last_used_at"] if found else None

        async def is_written() -> bool:
            return await last_used_at() is not None

        async def is_read_again() -> None:
            """A key made now is known once the table was read again, and its use written once one later was."""
            other = await make_key(servers)
            assert await status_of(client, other) == 200
            other_digest = hashlib.sha256(other.encode()).digest()

            async def other_is_written() -> bool:
                found = await database["keys"].find_one({"hash": other_digest})
                return bool(found and found["last_used_at"])

            await wait_until(other_is_written)

        assert await last_used_at() is None
        assert await status_of(client, key) == 200
        await wait_until(is_written)
        first = await last_used_at()
        assert first is not None and abs(first - datetime.now(UTC)) < timedelta(minutes=1)
        for _ in range(20):
            assert await status_of(client, key) == 200
        await is_read_again()
        assert await last_used_at() == first

        table = KeyTable(database)  # another gateway, which has not noted any use yet
        async with background(table.run):
            await table.find(key)
            await is_read_again()
            assert await last_used_at() == first
            await database["keys"].update_one(
                {"hash": digest}, {"$set": {"last_used_at": first - timedelta(minutes=2)}}
            )
        table = KeyTable(database)
        async with background(table.run):
            await table.find(key)

            async def is_written_again() -> bool:
                return (await last_used_at() or first) > first - timedelta(minutes=1)

            await wait_until(is_written_again)


async def test_a_gateway_asks_once_a_minute_to_write_the_last_use_however_often_a_key_is_used(
    servers: Servers,
) -> None:
    keys = [await make_key(servers) for _ in range(3)]
    commands = Commands()
    async with open_watched(servers, commands) as database:
        table = KeyTable(database)
        async with background(table.run):

            async def is_read_again() -> bool:
                for key in keys:
                    await table.find(key)
                return commands.seen["find"] >= 4

            await wait_until(is_read_again)
    assert commands.seen["update"] == 1


def hash_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def test_a_wrong_key_takes_the_same_way_however_much_of_it_is_right(servers: Servers) -> None:
    key = await make_key(servers)
    guesses = [
        key[:right] + ("B" if key[right] == "A" else "A") * (len(key) - right)
        for right in range(len(key) - 43, len(key))
    ]
    lines: list[int] = []
    looked_up: set[bytes] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is not KeyTable.find.__code__:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
        elif event == "return":  # also where it waits
            looked_up.add(frame.f_locals["digest"])
        return trace

    ways = set()
    async with open_database(servers) as database:
        table = KeyTable(database)
        await table.refresh()
        for guess in guesses:
            lines.clear()
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                with pytest.raises(WrongKey):
                    await table.find(guess)
            finally:
                sys.settrace(before)
            ways.add(tuple(lines))
        assert (await table.find(key)).hash == hash_of(key)
    assert looked_up == {hash_of(guess) for guess in guesses}
    assert len(ways) == 1
    assert len(ways.pop()) > 5
