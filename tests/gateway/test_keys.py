"""Making, rotating and revoking keys: what is stored, what is refused, and what the audit remembers."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from common.mongo import Database
from gateway.errors import InvalidKeyField, KeyProblem, NameTaken, NewerKey, NoSuchKey
from gateway.keys import Key, KeyTable, create_key, list_keys, revoke_key, rotate_key
from gateway.repository import Repository
from tests.gateway.builders import open_database, plant, unique_name
from tests.support import Servers


@pytest.fixture
async def database(servers: Servers) -> AsyncIterator[Database]:
    """The gateway's database."""
    async with open_database(servers) as opened:
        yield opened


async def make(database: Database, name: str, **given: Any) -> str:
    return await create_key(database, name=name, created_by="the tests", **{"scope": "discord", **given})


async def named(database: Database, name: str) -> list[Key]:
    return [key for key in await list_keys(database) if key.name == name]


async def test_a_key_has_its_scope_in_front_and_256_random_bits(database: Database) -> None:
    for scope in ("roblox", "discord", "operator"):
        secret = await make(database, unique_name(), scope=scope)
        assert re.fullmatch(rf"cb_{scope}_[A-Za-z0-9_-]{{43}}", secret)


async def test_only_the_hash_and_the_first_characters_of_a_key_are_stored(database: Database) -> None:
    name = unique_name()
    secret = await make(database, name)
    stored = await database["keys"].find_one({"name": name})
    assert stored is not None
    assert stored["hash"] == hashlib.sha256(secret.encode()).digest()
    assert stored["prefix"] == secret[:17]
    assert secret[17:] not in str(stored)
    assert secret[17:] not in str(await database["audit"].find({"name": name}).to_list())


async def test_a_key_is_stored_with_all_that_limits_it(database: Database) -> None:
    name, expires_at = unique_name(), datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
    await make(
        database,
        name,
        scope="roblox",
        places=[2**63 - 1, 1001],
        networks=["10.0.0.0/8", "2001:db8::/32"],
        expires_at=expires_at,
        rate="500/min",
    )
    (key,) = await named(database, name)
    assert (key.scope, key.rate, key.expires_at) == ("roblox", "500/min", expires_at)
    assert key.places == {1001, 2**63 - 1}
    assert key.networks == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    assert (key.created_by, key.current, key.last_used_at, key.revoked_at) == ("the tests", True, None, None)


async def test_a_listed_key_shows_no_hash(database: Database) -> None:
    name = unique_name()
    await make(database, name)
    (key,) = await named(database, name)
    assert "hash" not in repr(key)
    assert "hash" not in key.model_dump(mode="json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scope", "admin"),
        ("places", [0]),
        ("places", [2**63]),
        ("networks", ["10.0.0.1/8"]),
        ("networks", ["everywhere"]),
        ("rate", "many"),
        ("rate", "0/min"),
        ("rate", "5/fortnight"),
        ("expires_at", datetime(2030, 1, 1)),  # noqa: DTZ001 - this is what is refused
    ],
)
async def test_what_a_key_cannot_have_is_refused_with_the_fields_name(
    database: Database, field: str, value: object
) -> None:
    name = unique_name()
    with pytest.raises(InvalidKeyField, match=f"^{field}: .+\\.$"):
        await make(database, name, **{"scope": "roblox", field: value})
    assert await named(database, name) == []


@pytest.mark.parametrize("scope", ["discord", "operator"])
async def test_places_that_would_limit_nothing_are_refused(database: Database, scope: str) -> None:
    name = unique_name()
    with pytest.raises(InvalidKeyField, match=r"^places: only keys of scope roblox can be limited to places"):
        await make(database, name, scope=scope, places=[1001])
    assert await named(database, name) == []


async def test_a_key_that_has_such_places_from_before_can_still_be_used_and_rotated(
    database: Database,
) -> None:
    name = unique_name()
    secret = await make(database, name)
    await database["keys"].update_one({"name": name}, {"$set": {"places": [1001]}})
    assert (await KeyTable(database).find(secret)).places == {1001}
    await rotate_key(database, name, timedelta(0), by="somebody")
    assert [key.places for key in await named(database, name)] == [{1001}, {1001}]


@pytest.mark.parametrize("change", [{"scope": "staff"}, {"rate": {"requests": 5, "per": "week"}}])
async def test_a_key_of_a_newer_version_is_revoked_but_not_rotated(
    database: Database, change: dict[str, Any]
) -> None:
    name = unique_name()
    await make(database, name)
    await plant(database, name, change)
    with pytest.raises(NewerKey, match=name):
        await rotate_key(database, name, timedelta(0), by="somebody")
    assert await database["keys"].count_documents({"name": name, "current": True}) == 1
    if "scope" not in change:  # our validator, unlike the newer version's, would not take such a scope
        await revoke_key(database, name, by="somebody")
        assert await database["keys"].count_documents({"name": name, "current": True}) == 0


async def test_keys_of_a_newer_version_are_listed_as_far_as_they_can_be_read(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    staff, odd, plain = unique_name(), unique_name(), unique_name()
    for name in (staff, odd, plain):
        await make(database, name)
    await plant(database, staff, {"scope": "staff", "clearance": {"least": 3}})
    await plant(database, odd, {"rate": "5/fortnight"})
    assert [key.scope for key in await named(database, staff)] == ["staff"]
    assert [key.scope for key in await named(database, plain)] == ["discord"]
    assert await named(database, odd) == []
    assert f"the key {odd} opens nothing here, as this version cannot read its rate" in caplog.text
    repository, document = Repository(database), await database["keys"].find_one({"name": odd})
    assert document is not None
    caplog.clear()
    assert [repository._read(document) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["", " x", "two words", "x" * 65, "ä", "line\nbreak", ".hidden"])
async def test_a_name_is_one_short_word(database: Database, name: str) -> None:
    with pytest.raises(InvalidKeyField, match=r"^name: "):
        await make(database, name)


async def test_a_name_is_used_once_even_when_two_create_it_together(database: Database) -> None:
    name = unique_name()
    results = await asyncio.gather(*(make(database, name) for _ in range(4)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NameTaken"] * 3 + ["str"]
    assert len(await named(database, name)) == 1
    assert await database["audit"].count_documents({"name": name}) == 1
    with pytest.raises(NameTaken, match=name):
        await make(database, name)


async def test_a_rotated_key_keeps_its_limits_and_the_old_one_expires_after_the_overlap(
    database: Database,
) -> None:
    name, now = unique_name(), datetime.now(UTC)
    limits = {"scope": "roblox", "places": [1001], "networks": ["10.0.0.0/8"], "rate": "5/s"}
    first = await make(database, name, **limits, expires_at=now + timedelta(days=90))
    second = await rotate_key(database, name, timedelta(hours=24), by="somebody")
    assert first != second
    old, new = await named(database, name)
    assert (old.current, new.current) == (False, True)
    assert old.expires_at is not None and new.expires_at is not None
    assert abs(old.expires_at - now - timedelta(hours=24)) < timedelta(minutes=1)
    assert abs(new.expires_at - now - timedelta(days=90)) < timedelta(minutes=1)
    same = {"scope", "places", "networks", "rate"}
    assert new.model_dump(include=same) == old.model_dump(include=same)
    assert (new.prefix, new.created_by) == (second[:16], "somebody")


async def test_a_rotation_never_prolongs_the_old_key(database: Database) -> None:
    name, soon = unique_name(), datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    await make(database, name, expires_at=soon)
    await rotate_key(database, name, timedelta(hours=24), by="somebody")
    assert (await named(database, name))[0].expires_at == soon


async def test_revoking_a_name_revokes_the_rotated_keys_too_and_frees_the_name(database: Database) -> None:
    name = unique_name()
    await make(database, name)
    await rotate_key(database, name, timedelta(hours=24), by="somebody")
    await revoke_key(database, name, by="somebody")
    assert all(key.revoked_at and not key.current for key in await named(database, name))
    await make(database, name)
    assert [key.current for key in await named(database, name)] == [False, False, True]


async def test_a_name_that_no_key_in_use_has_can_be_neither_rotated_nor_revoked(database: Database) -> None:
    name = unique_name()
    for _ in range(2):
        with pytest.raises(NoSuchKey, match=name):
            await rotate_key(database, name, timedelta(0), by="somebody")
        with pytest.raises(NoSuchKey, match=name):
            await revoke_key(database, name, by="somebody")
        if not await named(database, name):
            await make(database, name)
            await revoke_key(database, name, by="somebody")
    assert issubclass(NoSuchKey, KeyProblem)


async def test_the_audit_says_who_did_what_to_which_key_in_order(database: Database) -> None:
    name = unique_name()
    first = await make(database, name, scope="roblox", places=[1001], rate="5/s")
    second = await rotate_key(database, name, timedelta(hours=1), by="olga")
    await revoke_key(database, name, by="pat")
    entries = await database["audit"].find({"name": name}).sort("at").to_list()
    assert [(entry["act"], entry["by"]) for entry in entries] == [
        ("key_create", "the tests"),
        ("key_rotate", "olga"),
        ("key_revoke", "pat"),
    ]
    created, rotated, _ = entries
    assert (created["prefix"], created["scope"], created["places"], created["rate"]) == (
        first[:16],
        "roblox",
        [1001],
        "5/s",
    )
    assert (rotated["prefix"], rotated["old_prefix"]) == (second[:16], first[:16])
    assert all(abs(entry["at"] - datetime.now(UTC)) < timedelta(minutes=1) for entry in entries)
