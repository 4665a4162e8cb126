"""`callboard verify --repair`: totals and copies are made right again, from the records of their owners."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from operator import itemgetter
from typing import Any

import pytest

from accounts.repository import Accounts
from callboard import books, credit
from callboard.access import open_database, open_databases
from callboard.books import TotalsOfLedger
from callboard.services import DATABASES
from callboard.verify import Report, verify
from common.dead_letters import DEAD_LETTERS
from common.events import ShiftLogged, new_id
from common.mongo import transaction
from common.outgoing.headers import KEY_NAME_HEADER
from tests.accounts.builders import shift_logged
from tests.cli.machine import CALLBOARD, run
from tests.support import unique_id, wait_until
from tests.support.accounting import ENDED_AT, log
from tests.support.machine import PATIENCE, Machine, machine
from tests.support.plans import Sent, listen, slow_plans

ALL = ("accounts", "certifications", "shifts")


@pytest.fixture(scope="module")
async def park() -> AsyncIterator[Machine]:
    """A machine on which accounts, certifications and shifts run; every test leaves it in order."""
    async with machine(patience=PATIENCE) as one:
        await one.start(*ALL)
        yield one


async def look(park: Machine, *, repair: bool = False, patience_seconds: float = 0.4) -> Report:
    """The report of the running system."""
    return await verify(park.settings(), lambda *_: None, repair=repair, patience_seconds=patience_seconds)


async def sound(park: Machine) -> Report:
    """The report, once all is in order."""
    return await look(park, patience_seconds=20)


def sentences(report: Report) -> set[str]:
    """Every difference in the report."""
    return set(report.to_json()["differences"])


async def log_shifts(park: Machine, *users: int) -> dict[int, str]:
    """Log a shift of ten minutes for each of them; their ids."""
    async with park.service("shifts") as client:
        for user in users:
            answer = await log(client, user)
            assert answer
            assert answer.status_code == 200
    async with park.mongodb() as client:
        found = client["shifts"]["shifts"].find({"user": {"$in": users}})
        return {shift["user"]: shift["_id"] async for shift in found}


async def change(park: Machine, what: str, username: str, code: str = "tot") -> None:
    """Grant or revoke a certification."""
    params = {"username": username, "certification": code, "moderator": "400000000000000004"}
    async with park.service("certifications") as client:
        answer = await client.post(f"/certification/{what}", params=params)
        assert answer.status_code == 200, answer.text


async def unsent(park: Machine, service: str) -> int:
    """How many of its events the service has not sent."""
    async with park.mongodb() as client:
        return await client[service]["outbox"].count_documents({"sent": False})


async def is_all_sent(park: Machine, service: str) -> bool:
    """Whether the service has sent all its events."""
    return await unsent(park, service) == 0


async def outboxes(park: Machine) -> int:
    """How many events there are in all outboxes, sent ones included."""
    async with park.mongodb() as client:
        return sum([await client[name]["outbox"].count_documents({}) for name in DATABASES])


async def lose_the_storage_of_nats(park: Machine) -> None:
    """NATS comes back, and has nothing of what it had stored."""
    await park.kill("nats-server")
    shutil.rmtree(park.folder / "nats" / "data")
    await park.start("nats-server")


async def test_shifts_whose_events_nats_lost_are_named_mended_and_then_left_alone(park: Machine) -> None:
    await park.stop("accounts")
    one, other = unique_id(), unique_id()
    ids = await log_shifts(park, one, other)

    async def are_all_sent() -> bool:
        return await unsent(park, "shifts") == 0

    await wait_until(are_all_sent)
    await lose_the_storage_of_nats(park)
    await park.start("accounts")

    expected = {f"Shift {ids[user]} of person {user} is not in the ledger." for user in (one, other)}
    assert sentences(await look(park)) == expected

    command = (CALLBOARD, "verify", "--repair", "--json", "--data-dir", str(park.folder))
    answer = await run(*command)
    report = json.loads(answer.out)
    assert (answer.status, report["ok"], report["differences"]) == (0, True, [])
    assert set(report["found"]) == expected
    assert report["repairs"] == {"shifts": 2, "totals": 0, "certifications": 0}

    assert (await sound(park)).is_good
    events = await outboxes(park)
    again = await look(park, repair=True)
    assert (again.is_good, again.repairs) == (True, {"shifts": 0, "totals": 0, "certifications": 0})
    assert await outboxes(park) == events
    async with park.mongodb() as client:
        totals = [
            account["points"]
            async for account in client["accounts"]["accounts"].find({"id": {"$in": [one, other]}})
        ]
    assert totals == [10, 10]


async def test_a_certification_whose_event_nats_lost_is_named_and_mended(park: Machine) -> None:
    person = await park.person()
    await park.stop("shifts")
    await change(park, "grant", person.username)
    await change(park, "revoke", person.username)

    async def is_known_to_accounts() -> bool:
        async with park.mongodb() as client:
            found = await client["accounts"]["accounts"].find_one({"id": person.id}) or {}
        return found.get("certifications") == {"tot": {"held": False, "version": 2}}

    async def are_all_sent() -> bool:
        return await unsent(park, "certifications") == 0

    await wait_until(is_known_to_accounts)
    await wait_until(are_all_sent)  # or what is not noted as sent would come again
    await lose_the_storage_of_nats(park)
    await park.start("shifts")

    text = f"Certification tot of person {person.id}: certifications has version 2 (not held), shifts has nothing."
    assert sentences(await look(park)) == {text}
    assert (await look(park, repair=True)).repairs == {"shifts": 0, "totals": 0, "certifications": 1}
    assert (await sound(park)).is_good


async def test_whatever_a_copy_knows_is_compared_and_only_what_is_older_is_mended(park: Machine) -> None:
    older, absent, newer, unknown = people = [await park.person() for _ in range(4)]
    for person in people[:3]:
        await change(park, "grant", person.username)
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        accounts, members = client["accounts"]["accounts"], client["shifts"]["members"]
        held = {"held": False, "version": 7}
        await client["certifications"]["certifications"].update_one(
            {"user": older.id}, {"$set": {"version": 3}}
        )
        await accounts.delete_one({"id": absent.id})
        await accounts.update_one({"id": newer.id}, {"$set": {"certifications.tot": held}})
        await members.insert_one({"_id": unknown.id, "certifications": {"char": held}})
        expected = {
            f"Certification tot of person {older.id}: certifications has version 3 (held), accounts has version 1 (held).",
            f"Certification tot of person {older.id}: certifications has version 3 (held), shifts has version 1 (held).",
            f"Certification tot of person {absent.id}: certifications has version 1 (held), accounts has nothing.",
        }
        beyond_repair = {
            f"Certification tot of person {newer.id}: certifications has version 1 (held), accounts has version 7 (not held).",
            f"Certification char of person {unknown.id}: certifications has nothing, shifts has version 7 (not held).",
        }
        assert sentences(await look(park)) == expected | beyond_repair
        report = await look(park, repair=True)
        assert report.repairs == {"shifts": 0, "totals": 0, "certifications": 2}

        async def is_what_can_be_mended() -> bool:
            return sentences(await look(park, patience_seconds=0)) == beyond_repair

        await wait_until(is_what_can_be_mended)
        await members.delete_one({"_id": unknown.id})
        await accounts.update_one(
            {"id": newer.id}, {"$set": {"certifications.tot.version": 1, "certifications.tot.held": True}}
        )
    assert (await sound(park)).is_good


async def test_totals_are_set_to_what_the_ledger_adds_up_to(park: Machine) -> None:
    more, less, no_account, no_entry = users = [unique_id() for _ in range(4)]
    ids = await log_shifts(park, *users)
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        accounts, ledger = client["accounts"]["accounts"], client["accounts"]["ledger"]
        await accounts.update_one({"id": more}, {"$inc": {"points": 5}})
        await accounts.update_one({"id": less}, {"$inc": {"points": -5}})
        await accounts.delete_one({"id": no_account})
        await ledger.delete_one({"_id": ids[no_entry]})
        report = await look(park, repair=True)
        assert report.repairs == {"shifts": 1, "totals": 4, "certifications": 0}
        assert (await sound(park)).is_good
        totals = {account["id"]: account["points"] async for account in accounts.find({"id": {"$in": users}})}
    assert totals == dict.fromkeys(users, 10)


async def test_a_ledger_entry_without_a_shift_is_named_and_stays(park: Machine) -> None:
    user = unique_id()
    ids = await log_shifts(park, user)
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        shifts = client["shifts"]["shifts"]
        shift = await shifts.find_one_and_delete({"_id": ids[user]})
        assert shift is not None
        report = await look(park, repair=True)
        assert sentences(report) == {f"Ledger entry {ids[user]} has no shift."}
        assert not any((report.repairs or {}).values())
        await shifts.insert_one(shift)
    assert (await sound(park)).is_good


async def test_nothing_is_published_again_while_it_may_still_be_under_way(park: Machine) -> None:
    await park.kill("nats-server")
    user = unique_id()
    await log_shifts(park, user)
    for _ in range(2):
        report = await look(park, repair=True)
        assert (report.is_good, report.unsent_events["shifts"]) == (False, 1)
        assert not (report.repairs or {}).get("shifts")
        assert "shifts has 1 unsent event. Repair again once they are sent." in report.sentences()
    assert await unsent(park, "shifts") == 1
    await park.start("nats-server")
    assert (await sound(park)).is_good


async def test_what_nats_has_and_accounts_has_not_handled_yet_is_not_published_again(park: Machine) -> None:
    await park.stop("accounts")
    one, other = unique_id(), unique_id()
    await log_shifts(park, one, other)
    person = await park.person()
    await wait_until(lambda: is_all_sent(park, "shifts"))
    events = await outboxes(park)
    for _ in range(2):
        report = await look(park, repair=True)
        assert report.on_their_way == 2
        assert "2 of these are on their way: NATS has what is missing, and delivers it." in report.sentences()
        assert not any((report.repairs or {}).values())
    assert (await look(park)).to_json()["on_their_way"] == 2
    assert await outboxes(park) == events
    await park.start("accounts")
    assert (await sound(park)).is_good

    await park.stop("shifts")
    await change(park, "grant", person.username)
    await wait_until(lambda: is_all_sent(park, "certifications"))
    events = await outboxes(park)
    report = await look(park, repair=True)
    assert (report.on_their_way, report.repairs) == (1, {"shifts": 0, "totals": 0, "certifications": 0})
    assert await outboxes(park) == events
    await park.start("shifts")
    assert (await sound(park)).is_good


async def test_what_was_published_again_is_on_its_way_too(park: Machine) -> None:
    await park.stop("accounts")
    user = unique_id()
    await log_shifts(park, user)
    await wait_until(lambda: is_all_sent(park, "shifts"))
    await lose_the_storage_of_nats(park)

    async def is_published_again() -> bool:  # once shifts has made the stream anew
        return bool(((await look(park, repair=True)).repairs or {})["shifts"])

    await wait_until(is_published_again)
    await wait_until(lambda: is_all_sent(park, "shifts"))
    events = await outboxes(park)
    report = await look(park, repair=True)
    assert (report.on_their_way, (report.repairs or {})["shifts"]) == (1, 0)
    assert await outboxes(park) == events
    await park.start("accounts")
    assert (await sound(park)).is_good


async def test_while_nats_is_away_nothing_that_it_may_have_is_published_again(park: Machine) -> None:
    await park.stop("accounts")
    user = unique_id()
    await log_shifts(park, user)
    await wait_until(lambda: is_all_sent(park, "shifts"))
    await park.kill("nats-server")
    report = await look(park, repair=True)
    assert (report.nats_is_away, report.to_json()["on_their_way"]) == (True, None)
    assert not any((report.repairs or {}).values())
    assert [text for text in report.sentences() if text.startswith("NATS does not answer")]
    await park.start("nats-server")
    await park.start("accounts")
    assert (await sound(park)).is_good


async def test_a_second_that_is_credited_twice_is_found_with_its_person_and_shift(park: Machine) -> None:
    user = unique_id()
    await log_at(park, user, (4000, 600), (3700, 600), (100, 60))
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        shifts = client["shifts"]["shifts"]
        second = await shifts.find_one({"user": user, "credited_seconds": 300})
        assert second is not None
        await shifts.update_one({"_id": second["_id"]}, {"$set": {"credited_seconds": 301}})
        report = await look(park, repair=True)
        assert sentences(report) == {
            f"Shift {second['_id']} of person {user} is credited seconds twice: it and the shifts that it follows on "
            "cover 900 s, and are credited 901 s."
        }
        assert not any((report.repairs or {}).values())
        await shifts.update_one({"_id": second["_id"]}, {"$set": {"credited_seconds": 300}})
    assert (await sound(park)).is_good


async def test_a_wrong_carry_is_found_with_its_person_and_shift(park: Machine) -> None:
    user = unique_id()
    await log_at(park, user, (4000, 50), (3000, 50), (2000, 50))
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        shifts, sheets = client["shifts"]["shifts"], client["shifts"]["timesheets"]
        first, second, third = await shifts.find({"user": user}).sort("number").to_list()
        sheet = await sheets.find_one({"_id": user})
        assert sheet is not None
        assert [one["exact_points"] for one in (first, second, third)] == ["5/6"] * 3
        assert [one["carried"] for one in (first, second, third)] == ["0", "5/6", "2/3"]

        await sheets.update_one({"_id": user}, {"$set": {"carry": {"numerator": 1, "denominator": 3}}})
        assert sentences(await look(park)) == {
            f"The timesheet of person {user} carries 1/3 points, their last shift {third['_id']} left 1/2."
        }
        await sheets.replace_one({"_id": user}, sheet)
        await shifts.update_one({"_id": third["_id"]}, {"$set": {"carried": "1/2"}})
        assert sentences(await look(park)) == {
            f"Shift {third['_id']} of person {user} carries 1/2 points, shift {second['_id']} before it left 2/3.",
            f"The timesheet of person {user} carries 1/2 points, their last shift {third['_id']} left 1/3.",
        }
        await shifts.replace_one({"_id": third["_id"]}, third)
    assert (await sound(park)).is_good


async def test_one_person_with_more_shifts_than_are_read_at_once_is_checked_whole(
    park: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = sorted(unique_id() for _ in range(3))
    for user, many in zip(users, (1, 5, 2), strict=True):
        await log_at(park, user, *((1000 * number, 50) for number in range(1, many + 1)))
    assert (await sound(park)).is_good
    async with open_databases(park.settings()) as databases:
        whole = {
            user: (shifts, sheet) async for user, shifts, sheet in credit.CreditOfShifts(databases).pairs()
        }
        assert [len(whole[user][0] or ()) for user in users] == [1, 5, 2]
        for at_once in (1, 2, 3, 4, 7):
            monkeypatch.setattr(credit, "_READ_AT_ONCE", at_once)
            paged = {
                user: (sorted(shifts, key=itemgetter("_id")), sheet)
                async for user, shifts, sheet in credit.CreditOfShifts(databases).pairs()
                if shifts
            }
            assert paged == {
                user: (sorted(shifts, key=itemgetter("_id")), sheet)
                for user, (shifts, sheet) in whole.items()
                if shifts
            }


async def log_at(park: Machine, user: int, *worked: tuple[int, int]) -> None:
    """Log shifts of this person: for each, how many seconds ago it ended, and how long it was."""
    async with park.service("shifts") as client:
        for ago, duration in worked:
            params: dict[str, Any] = {
                "id": user,
                "place": 1001,
                "duration": duration,
                "training": "false",
                "server": "server-1",
                "ended_at": ENDED_AT - ago,
            }
            answer = await client.post("/log", params=params, headers={KEY_NAME_HEADER: "game"})
            assert answer.status_code == 200


async def test_a_total_is_mended_while_shifts_are_counted(park: Machine) -> None:
    user = unique_id()
    async with open_database(park.settings(), "accounts") as database:
        accounts = Accounts(database)
        totals = TotalsOfLedger(dict.fromkeys(DATABASES, database))

        async def record(event: ShiftLogged) -> None:
            await transaction(database, lambda session: accounts.record(session, [event]))

        for number in range(30):
            await database["accounts"].update_one({"id": user}, {"$inc": {"points": 1_000}})
            await asyncio.gather(
                totals.mend([(user, None, None)]),
                record(shift_logged(user, points=10)),
                totals.mend([(user, None, None)]),
            )
            account = await database["accounts"].find_one({"id": user})
            assert account is not None
            assert account["points"] == 10 * (number + 1)
        await database["accounts"].delete_one({"id": user})
        await database["ledger"].delete_many({"user": user})


def test_one_of_a_thing_is_told_as_one() -> None:
    counts = {"shifts": 1, "ledger_entries": 1, "people": 1, "points": 1, "certifications": 1}
    told = Report(counts, {"shifts": 1}, {"accounts": 1}, repairs={"shifts": 1, "totals": 1}).sentences()
    assert told == [
        "Mended: 1 shift published again, 1 total corrected.",
        "shifts has 1 unsent event. Repair again once they are sent.",
        "accounts has 1 dead letter.",
        "1 shift, 1 ledger entry, 1 point of 1 person, 1 certification: NOT in order.",
    ]
    assert Report().sentences() == [
        "0 shifts, 0 ledger entries, 0 points of 0 people, 0 certifications: all add up."
    ]


async def test_everything_is_read_page_by_page(park: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [await park.person() for _ in range(4)]
    for person in people:
        for code in ("char", "tot", "mtp"):
            await change(park, "grant", person.username, code)
    await log_shifts(park, *(person.id for person in people))
    whole = await sound(park)
    assert whole.is_good
    monkeypatch.setattr(books, "_READ_AT_ONCE", 2)
    sent = listen(monkeypatch)
    report = await look(park)
    monkeypatch.undo()
    assert (report.is_good, report.counts) == (True, whole.counts)
    for name, least in (("shifts", 4), ("ledger", 4), ("members", 4), ("certifications", 12)):
        pages = [command for what, command in sent.commands if command[what] == name and what == "find"]
        assert len(pages) > least / 2


async def test_every_collection_is_read_through_an_index(
    park: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "_READ_AT_ONCE", 2)  # so that further pages are read too
    monkeypatch.setattr(books, "_PEOPLE_AT_ONCE", 2)
    person = await park.person()
    await change(park, "grant", person.username)
    ids = await log_shifts(park, person.id)
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        await client["accounts"]["accounts"].update_one({"id": person.id}, {"$inc": {"points": 1}})
        await client["accounts"]["ledger"].delete_one({"_id": ids[person.id]})
        await client["shifts"]["members"].delete_one({"_id": person.id})
    sent = listen(monkeypatch)
    report = await look(park, repair=True)
    assert report.repairs == {"shifts": 1, "totals": 1, "certifications": 1}
    assert (await sound(park)).is_good
    monkeypatch.undo()
    assert {("aggregate", "ledger"), ("find", "members"), ("find", "certifications")} < sent.targets
    for name in DATABASES:
        own = Sent()
        own.commands = [
            (what, command)
            for what, command in sent.commands
            if command["$db"] == name and command[what] != DEAD_LETTERS.name
        ]
        async with open_database(park.settings(), name) as database:
            assert [plan for plan in await slow_plans(database, own) if "whole collection" in plan] == []


async def test_more_than_a_batch_is_mended_in_one_go(park: Machine) -> None:
    user = unique_id()
    await log_shifts(park, user)
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        shifts = client["shifts"]["shifts"]
        shift = await shifts.find_one({"user": user})
        assert shift is not None
        for name in ("number", "exact_points", "carried"):  # those of an older version
            del shift[name]
        copies = [
            {
                **shift,
                "_id": new_id(),
                "idempotency_key": new_id(),
                "started_at": shift["started_at"] - 600 * number,
                "ended_at": shift["ended_at"] - 600 * number,
            }
            for number in range(1, 2_101)
        ]
        await shifts.insert_many(copies)
    named = await look(park)
    assert len(sentences(named)) == 1_000
    assert "... and at least 990 more." in named.sentences()
    report = await look(park, repair=True)
    assert report.repairs == {"shifts": 2_100, "totals": 0, "certifications": 0}
    assert (await sound(park)).is_good
    async with park.mongodb() as client:
        account = await client["accounts"]["accounts"].find_one({"id": user})
    assert account is not None
    assert account["points"] == 2_101 * 10
