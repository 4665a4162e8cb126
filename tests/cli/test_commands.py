"""The commands that look after a running system."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from callboard.access import find_settings, open_database
from callboard.databases import collections_of
from callboard.dead_letters import drop
from callboard.errors import CommandError
from callboard.servers import free_port
from callboard.services import DATABASES
from callboard.verify import verify
from common.events import ShiftLogged
from common.mongo import Document, check_migrated
from common.settings import Settings
from tests.accounts.builders import shift_logged
from tests.cli.machine import CALLBOARD, Machine, machine, run
from tests.support import ROOT, Servers, unique_id, wait_until


@pytest.fixture(scope="module")
async def park(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Machine]:
    """A running system, for the tests of this module."""
    async with machine(tmp_path_factory.mktemp("park")) as one:
        await one.up()
        yield one


@pytest.fixture(scope="module")
def settings(park: Machine) -> Settings:
    """What leads to the databases of the park."""
    return find_settings(park.data_dir)


async def log(park: Machine, user: int, seconds: int = 600) -> None:
    """Log a shift, and return once its points are there."""
    params: dict[str, str | int] = {
        "id": user,
        "place": 1001,
        "duration": seconds,
        "training": "false",
        "server": "s",
    }
    headers = {"x-api-key": park.keys()["ROBLOX_KEY"], "Roblox-Id": "1001", "Idempotency-Key": str(user)}
    async with httpx.AsyncClient(base_url=park.url, headers=headers, timeout=30) as client:

        async def is_logged() -> bool:
            return (await client.post("/log", params=params)).status_code == 200

        await wait_until(is_logged)

        async def is_paid() -> bool:
            profile = await client.get("/profile", params={"id": user})
            return profile.status_code == 200 and profile.json()["points"] == seconds // 60

        await wait_until(is_paid)


# ------------------------------------------------------------------------------------------------- keys


async def test_a_new_key_opens_and_a_revoked_one_does_not(park: Machine) -> None:
    made = await park.callboard("keys", "create", "bot", "--scope", "discord")
    key = made.out.strip()
    assert key.startswith("cb_discord_")
    await wait_until(lambda: park.knows(key))

    assert (await park.callboard("keys", "revoke", "bot")).status == 0

    async def is_refused() -> bool:
        return not await park.knows(key)

    await wait_until(is_refused)
    again = await park.callboard("keys", "revoke", "bot")
    assert (again.status, again.error) == (1, 'There is no key named "bot" in use.\n')


async def test_the_list_of_keys_shows_their_limits_and_never_a_key(park: Machine) -> None:
    limits = ("--place", "1001", "--place", "1002", "--network", "10.0.0.0/8")
    made = await park.callboard(
        *("keys", "create", "limited", "--scope", "roblox", *limits),
        *("--expires", "90d", "--rate", "500/min", "--json"),
    )
    key = json.loads(made.out)["key"]
    listing = await park.callboard("keys", "list", "--json")
    (found,) = (one for one in json.loads(listing.out) if one["name"] == "limited")
    assert (sorted(found["places"]), found["networks"]) == ([1001, 1002], ["10.0.0.0/8"])
    assert (found["rate"], found["state"], found["scope"]) == ("500/min", "valid", "roblox")
    left = datetime.fromisoformat(found["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    table = (await park.callboard("keys", "list")).out
    assert "limited" in table
    assert "1001, 1002" in table
    assert not [given for given in (key, *park.keys().values()) if given in listing.out + table]


async def test_a_rotated_key_opens_beside_its_successor_until_the_overlap_ends(park: Machine) -> None:
    old = (await park.callboard("keys", "create", "turning", "--scope", "operator")).out.strip()
    new = (await park.callboard("keys", "rotate", "turning", "--overlap", "2s")).out.strip()
    assert new != old
    await wait_until(lambda: park.knows(new))

    async def old_is_refused() -> bool:
        return not await park.knows(old)

    await wait_until(old_is_refused)
    await wait_until(lambda: park.knows(new))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("roblox", "--scope", "roblox"), 'There is a key named "roblox" already'),
        (("fast", "--scope", "roblox", "--rate", "many"), "rate: "),
        (("far", "--scope", "roblox", "--network", "everywhere"), "networks: "),
        (("a name", "--scope", "roblox"), "name: "),
    ],
)
async def test_a_key_that_cannot_be_made_is_told_in_one_sentence(
    options: tuple[str, ...], sentence: str, park: Machine
) -> None:
    answer = await park.callboard("keys", "create", *options)
    assert answer.status == 1
    assert answer.error.startswith(sentence)
    assert answer.error.count("\n") == 1


async def test_a_key_that_would_not_live_at_all_is_not_made(park: Machine) -> None:
    answer = await park.callboard("keys", "create", "brief", "--scope", "roblox", "--expires", "0d")
    assert (answer.status, answer.out) == (2, "")
    assert "expected more than nothing" in answer.error
    assert '"brief"' not in (await park.callboard("keys", "list", "--json")).out


# ----------------------------------------------------------------------------------------------- people


def operator(park: Machine) -> httpx.AsyncClient:
    """A client with the operator's key."""
    return httpx.AsyncClient(headers={"x-api-key": park.keys()["OPERATOR_KEY"]}, timeout=30)


async def import_people(park: Machine, text: str) -> tuple[int, str]:
    path = park.data_dir.with_suffix(".csv")
    path.write_text(text, "utf-8")
    answer = await park.callboard("people", "import", str(path))
    return answer.status, answer.error.replace(str(path), "FILE").strip()


async def test_imported_people_are_visible_at_once_and_can_be_changed(park: Machine) -> None:
    user, discord = unique_id(), unique_id()
    for name, rank, rankid, said in (
        ("Before", "Cast Member", 20, "1 (1 added, 0 changed, 0 unchanged)"),
        ("After", "40", 40, "1 (0 added, 1 changed, 0 unchanged)"),
    ):
        username = f"{name}_{user}"
        text = f"id,username,rank,discord\r\n{user},{username},{rank},{discord}\r\n\r\n"
        assert await import_people(park, "\ufeff" + text) == (0, f"People imported: {said}.")
        async with operator(park) as client:
            profile = (await client.get(f"{park.url}/profile?discord={discord}")).json()
        assert (profile["id"], profile["username"], profile["rankid"]) == (user, username, rankid)
        (act,) = json.loads((await park.callboard("audit", "--limit", "1", "--json")).out)
        assert (act["act"], act["text"]) == ("import", f"Imported people: {said[3:-1]}.")
        assert act["by"].startswith("operator:")


async def test_a_file_with_a_mistake_imports_nobody_and_each_wrong_line_is_named(park: Machine) -> None:
    good = unique_id()
    text = f"id,username,rank\n{good},Good_{good},Guest\n0,A_2,Guest\n72,,Ghost\n"
    status, error = await import_people(park, text)
    assert status == 1
    assert error.splitlines() == [
        "FILE: line 3: id: must be a whole number from 1 to 9223372036854775807, found '0'.",
        "FILE: line 4: username: required, but this cell is empty.",
        'FILE: line 4: rank: There is no rank "Ghost"; there are: Guest, University Student, Cast Member, '
        "Senior Cast Member, Manager, Executive.",
    ]
    taken = f"id,username,rank\n{good},Good_{good},Guest\n73,ROBLOX,Guest\n"
    assert await import_people(park, taken) == (
        1,
        "FILE: line 3: username: the person with the id 1 has it; give that person another one in the same "
        "import, or run `callboard people remove 1` first.",
    )
    async with operator(park) as client:
        assert (await client.get(f"{park.url}/profile?id={good}")).status_code == 404


async def test_people_are_listed_shown_and_removed(park: Machine) -> None:
    user, discord = unique_id(), 2**63 - 1 - unique_id()
    name = f"Leaver_{user}"
    text = f"id,username,rank,discord\n{user},{name},Cast Member,{discord}\n"
    assert (await import_people(park, text))[0] == 0
    await log(park, user)

    listing = await park.callboard("people", "list")
    (line,) = (line for line in listing.out.splitlines() if name in line)
    assert line.split() == [str(user), name, "Cast", "Member", str(discord)]
    listed = json.loads((await park.callboard("people", "list", "--json")).out)
    (found,) = (one for one in listed if one["id"] == user)
    known = {"id": user, "username": name, "rank": "Cast Member", "rankid": 20, "discord": str(discord)}
    assert found == known

    ways: list[tuple[str, ...]] = [(str(user),), ("--username", name.upper()), ("--discord", str(discord))]
    for whom in ways:
        shown = json.loads((await park.callboard("people", "show", *whom, "--json")).out)
        assert len(shown.pop("account")) == 24
        assert shown == {**known, "points": 10, "certifications": []}
    assert f"username:       {name}\n" in (await park.callboard("people", "show", str(user))).out
    one = "Name exactly one person: by id, or with --username or --discord.\n"
    nobody = "The local plugins know no such person; see `callboard people list`.\n"
    wrong: list[tuple[tuple[str, ...], str]] = [
        ((), one),
        ((str(user), "--username", name), one),
        (("--username", "nobody"), nobody),
    ]
    for whom, sentence in wrong:
        answer = await park.callboard("people", "show", *whom)
        assert (answer.status, answer.error) == (1, sentence)

    unsure = await park.callboard("people", "remove", str(user))
    assert (unsure.status, f"Remove {name} (Cast Member)" in unsure.out) == (1, True)
    assert (await park.callboard("people", "show", str(user))).status == 0
    removed = await park.callboard("people", "remove", str(user), "--yes")
    assert (removed.status, removed.error) == (
        0,
        f"Removed {name} ({user}) from the people that the local plugins know. The rank is Guest now. "
        "Account and history stay.\n",
    )
    again = await park.callboard("people", "remove", str(user), "--yes")
    assert (again.status, again.error) == (
        1,
        f"The local plugins know nobody with the id {user}; see `callboard people list`.\n",
    )
    async with operator(park) as client:
        profile = (await client.get(f"{park.url}/profile?id={user}")).json()
    assert (profile["username"], profile["points"], profile["rank"]) == (name, 10, "Guest")


# ----------------------------------------------------------------------------------------------- verify


async def test_verify_finds_all_in_order_after_shifts_were_logged(park: Machine) -> None:
    await log(park, unique_id())
    answer = await park.callboard("verify", "--json")
    report = json.loads(answer.out)
    assert (answer.status, report["ok"], report["differences"]) == (0, True, [])
    assert report["shifts"] == report["ledger_entries"] >= 1
    assert report["points"] >= 10
    assert "all add up" in (await park.callboard("verify")).out


async def test_verify_finds_everything_that_does_not_add_up(park: Machine, settings: Settings) -> None:
    more, less, no_entry, no_account, no_shift, other = users = [unique_id() for _ in range(6)]
    await asyncio.gather(*(log(park, user) for user in users))
    async with open_database(settings, "accounts") as accounts, open_database(settings, "shifts") as shifts:
        collections = [
            (accounts["accounts"], {"id": {"$in": users}}),
            (accounts["ledger"], {"user": {"$in": users}}),
            (shifts["shifts"], {"user": {"$in": users}}),
        ]
        sound = [(collection, await collection.find(where).to_list()) for collection, where in collections]
        ids = {document["user"]: document["_id"] for document in sound[2][1]}
        try:
            await accounts["accounts"].update_one({"id": more}, {"$inc": {"points": 1}})
            await accounts["accounts"].update_one({"id": less}, {"$inc": {"points": -1}})
            await accounts["ledger"].delete_one({"user": no_entry})
            await accounts["accounts"].delete_one({"id": no_account})
            await shifts["shifts"].delete_one({"user": no_shift})
            await shifts["shifts"].update_one({"user": other}, {"$set": {"user": 1}})
            answer, told = await asyncio.gather(park.callboard("verify", "--json"), park.callboard("verify"))
        finally:
            for collection, documents in sound:
                for document in documents:
                    await collection.replace_one({"_id": document["_id"]}, document, upsert=True)
    expected = {
        f"Person {more} has 11 points, but the ledger adds up to 10.",
        f"Person {less} has 9 points, but the ledger adds up to 10.",
        f"Person {no_entry} has 10 points, but the ledger adds up to 0.",
        f"Person {no_account} has 0 points, but the ledger adds up to 10.",
        f"Shift {ids[no_entry]} of person {no_entry} is not in the ledger.",
        f"Ledger entry {ids[no_shift]} has no shift.",
        f"Shift {ids[other]} pays 10 points to person 1, its ledger entry 10 to person {other}.",
    }
    report = json.loads(answer.out)
    assert (answer.status, report["ok"], len(report["differences"])) == (1, False, len(expected))
    assert set(report["differences"]) == expected
    assert told.status == 1
    assert expected < set(told.out.splitlines())
    assert "NOT in order" in told.out


async def test_verify_waits_for_what_is_under_way(park: Machine, settings: Settings) -> None:
    event = shift_logged(unique_id(), points=10)
    row = {
        "_id": event.id,
        "subject": event.SUBJECT,
        "payload": event.model_dump_json().encode(),
        "created_at": datetime.now(UTC),
        "sent": False,
    }
    document = {
        **event.model_dump(include={"user", "started_at", "ended_at", "credited_seconds", "points"}),
        "_id": event.id,
        "key": "test",
    }
    async with open_database(settings, "shifts") as shifts:
        await shifts["shifts"].insert_one(document)
        verifying = asyncio.create_task(park.callboard("verify", "--json"))
        # The relay looks for such rows every two seconds: this one is still unsent when verify begins.
        await shifts["outbox"].insert_one(row)
    answer = await verifying
    assert (answer.status, json.loads(answer.out)["differences"]) == (0, [])


# ----------------------------------------------------------------------------------------- dead letters


async def test_a_dead_letter_is_listed_fails_verify_and_is_handled_when_sent_again(
    park: Machine, settings: Settings
) -> None:
    event = shift_logged(unique_id(), points=10)
    letter = {
        "_id": event.id,
        "subject": event.SUBJECT,
        "payload": event.model_dump_json().encode(),
        "reason": "handler failed 10 times: a test",
        "at": datetime.now(UTC),
    }
    document = {
        **event.model_dump(include={"user", "started_at", "ended_at", "credited_seconds", "points"}),
        "_id": event.id,
        "key": "test",
    }
    async with open_database(settings, "accounts") as accounts, open_database(settings, "shifts") as shifts:
        await accounts["dead_letters"].insert_one(letter)
        listing = await park.callboard("dead-letters", "list")
        assert event.id in listing.out
        assert "a test" in listing.out
        report = json.loads((await park.callboard("verify", "--json")).out)
        assert (report["ok"], report["dead_letters"]["accounts"]) == (False, 1)

        await shifts["shifts"].insert_one(document)
        replayed = await park.callboard("dead-letters", "replay")
        assert (replayed.status, replayed.error) == (0, "Events sent again: 1.\n")

        async def is_in_the_ledger() -> bool:
            return await accounts["ledger"].find_one({"_id": event.id}) is not None

        await wait_until(is_in_the_ledger)
    assert "There are no dead letters." in (await park.callboard("dead-letters", "list")).out
    assert (await park.callboard("verify")).status == 0


def dead_letter(event_id: str, reason: str = "invalid: user: a test") -> Document:
    """What stands in the dead letters of accounts."""
    return {
        "_id": event_id,
        "subject": ShiftLogged.SUBJECT,
        "payload": b"{}",
        "reason": reason,
        "at": datetime.now(UTC),
    }


async def test_dead_letters_that_are_worth_nothing_are_dropped_by_their_ids_and_the_audit_says_so(
    park: Machine, settings: Settings
) -> None:
    dropped, kept = ([f"{name}-{unique_id()}" for name in names] for names in (("a", "b"), ("c",)))
    async with open_database(settings, "accounts") as accounts, open_database(settings, "gateway") as gateway:
        await accounts["dead_letters"].insert_many([dead_letter(one) for one in (*dropped, *kept)])
        for service, ids, why in (
            ("accounts", [dropped[0], "none"], "^accounts has no dead letter none: nothing was dropped"),
            ("shifts", dropped, f"^shifts has no dead letter {', '.join(dropped)}: nothing"),
            ("gateway", dropped, "^There is no service gateway; there are: accounts, "),
        ):
            with pytest.raises(CommandError, match=why):
                await drop(settings, service, ids)
        ours = {"_id": {"$in": [*dropped, *kept]}}
        assert await accounts["dead_letters"].count_documents(ours) == 3

        answer = await park.callboard("dead-letters", "drop", "accounts", *dropped)
        assert (answer.status, answer.error) == (0, f"accounts has forgotten: {', '.join(dropped)}.\n")
        assert [letter["_id"] async for letter in accounts["dead_letters"].find(ours)] == kept
        noted = await gateway["audit"].find({"name": {"$in": dropped}}).sort("name").to_list()
        assert [(one["act"], one["service"], one["text"]) for one in noted] == [
            ("drop", "accounts", f"Dropped the dead letter {one} of accounts: invalid: user: a test")
            for one in sorted(dropped)
        ]
        assert all(one["by"].startswith("operator:") for one in noted)
        listed = json.loads((await park.callboard("audit", "--limit", "2", "--json")).out)
        assert {one["text"] for one in listed} == {one["text"] for one in noted}
        await drop(settings, "accounts", kept)


async def test_a_dropped_shift_is_missing_in_the_ledger_until_a_repair(
    park: Machine, settings: Settings
) -> None:
    user = unique_id()
    await log(park, user)
    async with open_database(settings, "accounts") as accounts, open_database(settings, "shifts") as shifts:
        shift = await shifts["shifts"].find_one({"user": user})
        assert shift is not None

        async def is_noted_as_sent() -> bool:
            return await shifts["outbox"].find_one({"sent": False}) is None

        await wait_until(is_noted_as_sent)  # or nothing would be published again
        await accounts["ledger"].delete_one({"_id": shift["_id"]})
        await accounts["accounts"].update_one({"id": user}, {"$set": {"points": 0}})
        await accounts["dead_letters"].insert_one(dead_letter(shift["_id"]))
        await drop(settings, "accounts", [shift["_id"]])

        found = await verify(settings, lambda *_: None, patience_seconds=0.4)
        assert (found.is_good, found.differences["shifts"]) == (
            False,
            [f"Shift {shift['_id']} of person {user} is not in the ledger."],
        )
        await verify(settings, lambda *_: None, repair=True, patience_seconds=0.4)
        assert "Repaired: 1 shift published again" in (await park.callboard("audit", "--limit", "5")).out

        async def is_counted() -> bool:
            return await accounts["ledger"].count_documents({"_id": shift["_id"]}) == 1

        await wait_until(is_counted)


async def test_a_reason_with_brackets_is_listed_as_it_is(park: Machine, settings: Settings) -> None:
    async with open_database(settings, "accounts") as accounts:
        await accounts["dead_letters"].insert_one(dead_letter("x", reason="KeyError: '[/x]' [red]"))
        try:
            assert "KeyError: '[/x]' [red]" in (await park.callboard("dead-letters", "list")).out
        finally:
            await accounts["dead_letters"].delete_one({"_id": "x"})


# ----------------------------------------------------------------------------------------- what there is


async def test_status_shows_every_component_and_fails_when_one_is_gone(park: Machine, tmp_path: Path) -> None:
    found = await park.callboard("status", "--json")
    components = {one["name"]: one for one in json.loads(found.out)["components"]}
    assert {name: one["state"] for name, one in components.items()} == {
        "supervisor": "running",
        "mongod": "running",
        "nats-server": "running",
        "callboard": "ready",
    }
    assert components["callboard"]["port"] == park.port
    assert (found.status, json.loads(found.out)["ok"]) == (0, True)
    table = await park.callboard("status")
    assert (table.status, re.findall(r"\b(ready|running)\b", table.out)) == (
        0,
        ["running", "running", "running", "ready"],
    )

    async with machine(tmp_path) as other:
        await other.up()
        await other.stop()
        stopped = await other.callboard("status", "--json")
    report = json.loads(stopped.out)
    assert report.pop("trouble").startswith("MongoDB does not answer; is Callboard running? (")
    assert (stopped.status, report) == (
        1,
        {"ok": False, "components": [], "unsent_events": None, "refused_events": None, "dead_letters": None},
    )


async def test_plugins_lists_each_point_and_what_is_in_use() -> None:
    answer = await run(CALLBOARD, "plugins")
    lines = answer.out.splitlines()
    assert answer.status == 0
    assert "  per_minute    in use  callboard-shifts" in lines
    assert "  tiered                callboard-shifts" in lines
    points = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert points == [
        f"callboard.{name}" for name in ("identity", "ranking", "documents", "notify", "points", "policies")
    ]


async def test_plugins_names_what_the_configuration_wants_and_nobody_installed(tmp_path: Path) -> None:
    config = tmp_path / "callboard.toml"
    text = (ROOT / "callboard.toml").read_text("utf-8")
    config.write_text(text.replace('"per_minute"', '"by_luck"'), "utf-8")
    answer = await run(CALLBOARD, "plugins", "--config", str(config))
    assert "  by_luck       in use  not installed" in answer.out.splitlines()


async def test_migrate_brings_every_database_up_to_date_by_the_environment_alone(servers: Servers) -> None:
    environment = {
        "CALLBOARD_MONGO_URL": servers.mongo_url,
        "CALLBOARD_NATS_URL": servers.nats_url,
        "CALLBOARD_INTERNAL_TOKEN": servers.internal_token,
        "CALLBOARD_PATIENCE": "10",
    }
    for _ in range(2):
        answer = await run(CALLBOARD, "migrate", **environment)
        assert (answer.status, answer.error) == (0, "The databases are up to date.\n")
    own = Settings.model_validate({**{name[10:].lower(): text for name, text in environment.items()}})
    for name in DATABASES:
        async with open_database(own, name) as database:
            await check_migrated(database, collections_of(name))


@pytest.mark.parametrize("command", [("verify", "--json"), ("keys", "list"), ("migrate",)])
@pytest.mark.timeout(120)  # it fails in 10 s at most
async def test_where_mongodb_does_not_answer_one_sentence_soon_says_so(
    command: tuple[str, ...], servers: Servers
) -> None:
    answer = await run(
        *(CALLBOARD, *command),
        CALLBOARD_MONGO_URL=f"mongodb://callboard:secret@127.0.0.1:{free_port()}/?replicaSet=none",
        CALLBOARD_NATS_URL=servers.nats_url,
        CALLBOARD_INTERNAL_TOKEN=servers.internal_token,
    )
    assert (answer.status, answer.out) == (1, "")
    told = r"MongoDB does not answer; is Callboard running\? \(127\.0\.0\.1:\d+: [^(]*\(.*\)\)\n"
    assert re.fullmatch(told, answer.error), answer.error
    assert "timeout" not in answer.error.lower()


async def test_a_command_that_has_nowhere_to_print_to_does_its_work(park: Machine) -> None:
    command = f"{CALLBOARD} keys revoke none --data-dir {park.data_dir}"
    answer = await run("sh", "-c", f"{command} >&-")
    assert (answer.status, answer.error) == (1, 'There is no key named "none" in use.\n')


@pytest.mark.parametrize("command", [("status",), ("verify",), ("keys", "list"), ("migrate",)])
async def test_where_no_callboard_was_started_one_sentence_says_so(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    answer = await run(CALLBOARD, *command, "--data-dir", str(tmp_path / "none"))
    assert (answer.status, answer.out) == (1, "")
    assert answer.error == (
        f"No Callboard was started in {tmp_path / 'none'} so far: start one with `callboard up`, or name its "
        "folder with --data-dir.\n"
    )
