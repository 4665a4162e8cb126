"""POST /log: what is credited, what is a repeat, and what is refused."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from common.events import CertificationGranted, CertificationRevoked
from common.messaging.handling import Handled
from shifts.models import Claim, LogQuery
from shifts.repository import Repository
from tests.shifts.builders import bare, log, recorded_shift, shift
from tests.shifts.conftest import Park
from tests.support import unique_id

NOW = int(time.time()) - 20_000
DAY = 24 * 3600
REVOKED_AT = datetime.fromtimestamp(NOW, UTC)


async def recorded(park: Park, user: int) -> list[dict[str, object]]:
    """The person's shifts, in the order in which they were recorded."""
    return await park.database["shifts"].find({"user": user}).sort("_id").to_list()


async def credited(park: Park, user: int) -> list[object]:
    """The credited seconds of the person's shifts, in the order in which they were recorded."""
    return [document["credited_seconds"] for document in await recorded(park, user)]


async def test_a_shift_is_recorded_with_its_event(park: Park) -> None:
    parameters = shift(duration=600)
    answer = await log(park.client, parameters)
    assert (answer.status_code, answer.text) == (200, '{"status":"success"}')
    (stored,) = await recorded(park, parameters["id"])
    assert (stored["credited_seconds"], stored["points"]) == (600, 10)
    assert await park.database["outbox"].count_documents({"_id": stored["_id"]}) == 1


@pytest.mark.parametrize("again", [1, 5])
async def test_a_shift_sent_again_with_its_idempotency_key_is_the_same_shift(park: Park, again: int) -> None:
    parameters = shift()
    key = f"key-{parameters['id']}"
    assert "Idempotent-Replayed" not in (await log(park.client, parameters, key)).headers
    for _ in range(again):
        answer = await log(park.client, parameters, key)
        assert (answer.status_code, answer.text) == (200, '{"status":"success"}')
        assert answer.headers["Idempotent-Replayed"] == "true"
    assert len(await recorded(park, parameters["id"])) == 1


async def test_an_idempotency_key_with_other_parameters_is_refused(park: Park) -> None:
    parameters = shift()
    key = f"key-{parameters['id']}"
    await log(park.client, parameters, key)
    for other in ({"duration": 601}, {"id": unique_id()}, {"server": "other"}, {"training": "true"}):
        assert (await log(park.client, parameters | other, key)).status_code == 422
    assert len(await recorded(park, parameters["id"])) == 1


async def test_two_callers_may_use_the_same_idempotency_key(park: Park) -> None:
    first, second = shift(), shift()
    key = f"key-{first['id']}"
    assert (await log(park.client, first, key, key="north")).status_code == 200
    assert (await log(park.client, second, key, key="south")).status_code == 200
    assert len(await recorded(park, second["id"])) == 1


async def test_an_idempotency_key_used_at_once_for_two_people_is_kept_by_one(park: Park) -> None:
    first, second = shift(), shift()
    key = f"key-{first['id']}"
    answers = await asyncio.gather(log(park.client, first, key), log(park.client, second, key))
    assert sorted(answer.status_code for answer in answers) == [200, 422]


async def test_a_refused_shift_leaves_nothing_behind(park: Park) -> None:
    parameters = shift(place=1002)
    key = f"key-{parameters['id']}"
    answer = await log(park.client, parameters, key)
    assert (answer.status_code, answer.text) == (400, '{"status":"error","message":"invalid certification"}')
    assert (await log(park.client, parameters | {"place": 1001}, key)).status_code == 200
    assert len(await recorded(park, parameters["id"])) == 1


async def test_the_same_end_without_a_key_is_the_same_shift(park: Park) -> None:
    parameters = shift(ended_at=NOW)
    await log(park.client, parameters)
    assert (await log(park.client, parameters)).status_code == 200
    assert await credited(park, parameters["id"]) == [600]
    await log(park.client, parameters | {"server": "other"})
    assert await credited(park, parameters["id"]) == [600, 0]


async def test_a_retry_of_a_short_shift_that_ended_ahead_of_our_clock_is_the_same_shift(park: Park) -> None:
    parameters = shift(ended_at=int(time.time()) + 50, duration=5)
    await log(park.client, parameters)
    await log(park.client, parameters)
    assert await credited(park, parameters["id"]) == [5]


async def test_a_retry_that_comes_after_seven_days_is_still_the_same_shift(park: Park) -> None:
    parameters = shift(ended_at=NOW)
    await log(park.client, parameters)
    week = 7 * 24 * 3600
    change = {"ended_at": NOW - week, "started_at": NOW - week - 600, "given_ended_at": NOW - week}
    await park.database["shifts"].update_one({"user": parameters["id"]}, {"$set": change})
    late = parameters | {"ended_at": NOW - week}
    assert (await log(park.client, late)).status_code == 200
    assert (await log(park.client, late | {"id": unique_id()})).status_code == 400


async def test_a_retry_that_comes_after_our_clock_was_set_back_is_still_the_same_shift(park: Park) -> None:
    parameters = shift(ended_at=NOW)
    await log(park.client, parameters)
    for back in (1, 3600, 6 * DAY):
        assert await park.service.log(LogQuery(**parameters), "game", None, arrived_at=NOW - back)


async def test_a_late_shift_is_held_to_those_around_it_and_reads_none_of_the_many_since(park: Park) -> None:
    user = unique_id()
    ends = [NOW - number * 3600 for number in range(10 * 24)]
    shifts = [recorded_shift(user, end - 1800, end) for end in ends]
    await park.database["shifts"].insert_many([one.to_document() for one in shifts])
    late = Claim(user, 1001, "a", False, 3600, NOW - 5 * DAY, NOW, "game", None, True)
    ancient = replace(late, user=unique_id(), given_ended_at=0)
    await park.database.command("profile", 2)
    try:
        async with park.database.client.start_session() as session:
            found = await Repository(park.database).recorded(session, [late, ancient])
            alone = await Repository(park.database).recorded(session, [replace(ancient, user=user)])
    finally:
        await park.database.command("profile", 0)
    noted = await park.database["system.profile"].find({"command.aggregate": 1}).to_list()
    await park.database.drop_collection("system.profile")
    assert {one.ended_at for one in found.near[user]} == {NOW - 5 * DAY, NOW - 5 * DAY - 3600}
    assert alone.near[user] == []
    assert len(noted) == 2 and all(one["docsExamined"] < 30 for one in noted)  # those of a day at most
    await log(park.client, shift(id=user, ended_at=NOW - 5 * DAY, duration=3600, server="b"))
    assert (await credited(park, user))[-1] == 1800


async def test_a_bare_shift_repeated_within_half_its_duration_is_the_same_shift(park: Park) -> None:
    parameters = bare()
    await log(park.client, parameters)
    answer = await log(park.client, parameters)
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert await credited(park, parameters["id"]) == [600]


async def test_a_bare_shift_repeated_later_earns_only_its_uncovered_seconds(park: Park) -> None:
    parameters = bare()
    began = int(time.time())
    await log(park.client, parameters)
    moved = {"$inc": {"started_at": -400, "ended_at": -400}}
    await park.database["shifts"].update_one({"user": parameters["id"]}, moved)
    await log(park.client, parameters)
    passed = int(time.time()) - began
    first, second = await credited(park, parameters["id"])
    assert first == 600
    assert isinstance(second, int)
    assert 400 <= second <= 400 + passed


async def test_one_second_earns_at_most_once(park: Park) -> None:
    first = shift(ended_at=NOW, duration=1000)
    await log(park.client, first)
    overlapping = [
        (first | {"server": "b", "ended_at": NOW + 300}, 300),
        (first | {"server": "c", "ended_at": NOW - 400, "duration": 600}, 0),
        (first | {"server": "d", "ended_at": NOW + 1000, "duration": 3000}, 700 + 1000),
    ]
    for parameters, expected in overlapping:
        await log(park.client, parameters)
        assert (await credited(park, first["id"]))[-1] == expected
    flags = [document["flags"] for document in await recorded(park, first["id"])]
    assert flags == [[], ["overlap"], ["overlap"], ["overlap"]]


async def test_one_minute_trimmed_is_no_overlap_worth_a_flag(park: Park) -> None:
    first = shift(ended_at=NOW)
    await log(park.client, first)
    await log(park.client, first | {"server": "b", "ended_at": NOW + 540})
    assert [document["flags"] for document in await recorded(park, first["id"])] == [[], []]


async def test_shifts_of_one_person_that_come_at_once_earn_each_second_once(park: Park) -> None:
    user = unique_id()
    answers = await asyncio.gather(
        *(log(park.client, shift(id=user, ended_at=NOW, server=f"server-{n}")) for n in range(20))
    )
    assert {answer.status_code for answer in answers} == {200}
    seconds = await credited(park, user)
    assert sorted(seconds) == [0] * 19 + [600]  # type: ignore[type-var]  # documents are untyped


async def test_shifts_of_one_person_on_two_replicas_at_once_earn_each_second_once(park: Park) -> None:
    user = unique_id()
    answers = await asyncio.gather(
        *(
            log(client, shift(id=user, ended_at=NOW + n * 60, server=f"server-{n}"))
            for n in range(10)
            for client in (park.client, park.replica)
        )
    )
    assert {answer.status_code for answer in answers} == {200}
    shifts = await recorded(park, user)
    assert len(shifts) == 10
    assert sum(shift["points"] for shift in shifts) == 10 + 9  # type: ignore[misc]  # documents are untyped


async def test_a_shift_sent_at_once_to_two_replicas_is_one_shift(park: Park) -> None:
    parameters = shift()
    key = f"key-{parameters['id']}"
    answers = await asyncio.gather(
        *(log(client, parameters, key) for client in (park.client, park.replica) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 9
    assert len(await recorded(park, parameters["id"])) == 1


async def test_many_short_shifts_earn_what_one_long_shift_earns(park: Park) -> None:
    user = unique_id()
    for n in range(9):
        await log(park.client, shift(id=user, duration=20, ended_at=NOW + n * 20))
    points = [document["points"] for document in await recorded(park, user)]
    assert points == [0, 0, 1] * 3


async def test_a_fraction_of_a_second_is_dropped(park: Park) -> None:
    parameters = shift(duration="61.98")
    await log(park.client, parameters)
    assert await credited(park, parameters["id"]) == [61]


@pytest.mark.parametrize("duration", ["0", "0.9", str(24 * 3600 + 1)])
async def test_an_impossible_duration_is_refused(park: Park, duration: str) -> None:
    answer = await log(park.client, shift(duration=duration))
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("impossible duration")


async def test_a_shift_above_twelve_hours_is_credited_twelve(park: Park) -> None:
    parameters = shift(duration=24 * 3600)
    await log(park.client, parameters)
    (stored,) = await recorded(park, parameters["id"])
    assert (stored["credited_seconds"], stored["flags"]) == (12 * 3600, ["long"])


async def test_an_end_of_long_ago_is_refused(park: Park) -> None:
    answer = await log(park.client, shift(ended_at=int(time.time()) - 7 * DAY - 5))
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "invalid query: ended_at must be at most 7 days old",
    )


async def test_a_training_shift_needs_no_certification_and_earns_nothing(park: Park) -> None:
    parameters = shift(place=1002, training="true")
    assert (await log(park.client, parameters)).status_code == 200
    (stored,) = await recorded(park, parameters["id"])
    assert (stored["credited_seconds"], stored["points"]) == (600, 0)
    assert await park.database["outbox"].count_documents({"_id": stored["_id"]}) == 1


async def test_a_certification_known_only_to_its_owner_is_asked_for(park: Park) -> None:
    parameters = shift(place=1002)
    grant = {"user": parameters["id"], "code": "tot", "held": True, "version": 1}
    await park.certifications["certifications"].insert_one(grant)
    assert (await log(park.client, parameters)).status_code == 200
    kept = await park.database["members"].find_one({"_id": parameters["id"]})
    assert kept is not None
    assert kept["certifications"]["tot"] == {"held": True, "version": 1}


async def test_the_newest_of_a_certification_wins_in_any_order_and_however_often(park: Park) -> None:
    user = unique_id()

    def change(
        kind: type[CertificationGranted] | type[CertificationRevoked], version: int
    ) -> CertificationGranted | CertificationRevoked:
        return kind(
            occurred_at=REVOKED_AT,
            user=user,
            username="A",
            certification="tot",
            version=version,
            moderator="M",
        )

    newest = change(CertificationRevoked, 2)
    older = change(CertificationGranted, 1)
    assert await park.service.record_certifications([newest]) == [Handled.DONE]
    for _ in range(2):
        assert await park.service.record_certifications([newest, older]) == [Handled.UNCHANGED] * 2
    kept = await park.database["members"].find_one({"_id": user})
    assert kept is not None
    assert kept["certifications"]["tot"] == {"held": False, "version": 2, "changed_at": REVOKED_AT}
    late = shift(id=user, place=1002, ended_at=int(REVOKED_AT.timestamp()) + 600)
    assert (await log(park.client, late)).status_code == 400


async def revoke(park: Park, user: int, **changes: Any) -> None:
    """The copy learns that `tot` was revoked at NOW."""
    fact = {"user": user, "username": "A", "certification": "tot", "version": 2, "moderator": "M"}
    revoked = CertificationRevoked(**{"occurred_at": REVOKED_AT, **fact, **changes})
    assert await park.service.record_certifications([revoked]) == [Handled.DONE]


async def test_a_certification_revoked_after_the_shift_had_begun_still_counts(park: Park) -> None:
    user = unique_id()
    await revoke(park, user)
    for ended_at, status in ((NOW + 600, 400), (NOW + 599, 200), (NOW - 5000, 200), (NOW + 3000, 400)):
        answer = await log(park.client, shift(id=user, place=1002, ended_at=ended_at, duration=600))
        assert answer.status_code == status, ended_at


async def test_a_certification_revoked_after_the_shift_had_begun_counts_when_only_its_owner_knows_when(
    park: Park,
) -> None:
    user = unique_id()
    record = {"user": user, "code": "tot", "held": False, "version": 2, "revoked_at": REVOKED_AT}
    await park.certifications["certifications"].insert_one(record)
    during, after = (shift(id=user, place=1002, ended_at=NOW + later) for later in (300, 900))
    assert (await log(park.client, after)).status_code == 400
    assert (await log(park.client, during)).status_code == 200
    kept = await park.database["members"].find_one({"_id": user})
    assert kept is not None
    assert kept["certifications"]["tot"] == {"held": False, "version": 2, "changed_at": REVOKED_AT}


async def test_a_revocation_of_a_copy_that_knows_no_time_counts_as_before(park: Park) -> None:
    user = unique_id()
    await park.database["members"].insert_one(
        {"_id": user, "certifications": {"tot": {"held": False, "version": 2, "of a newer version": 1}}}
    )
    assert (await log(park.client, shift(id=user, place=1002, ended_at=NOW))).status_code == 400


async def test_the_interval_is_judged_by_the_corrected_clock(park: Park) -> None:
    user, fast = unique_id(), 7200
    await revoke(park, user)
    begun_before = shift(id=user, place=1002, ended_at=NOW + 500 + fast, now=int(time.time()) + fast)
    assert (await log(park.client, begun_before)).status_code == 200


async def test_shifts_of_a_newer_version_and_of_an_older_one_are_read(park: Park) -> None:
    user = unique_id()
    newer = recorded_shift(user, NOW - 1800, NOW).to_document() | {"of a newer version": {"a": 1}}
    older = recorded_shift(user, NOW - 3600, NOW - 1800).to_document()
    del older["flags"], older["given_ended_at"]
    await park.database["shifts"].insert_many([newer, older])
    await park.database["timesheets"].insert_one(
        {"_id": user, "carry": {"numerator": 1, "denominator": 2}, "shifts": 2, "of a newer version": 1}
    )
    answer = await log(park.client, shift(id=user, ended_at=NOW, duration=3630))
    assert answer.status_code == 200
    stored = await park.database["shifts"].find_one({"user": user, "duration": 3630})
    assert stored is not None
    assert (stored["credited_seconds"], stored["points"]) == (30, 1)
