"""POST /log: every acknowledged shift is counted exactly once, and each second of a person earns once.

Points arrive by an event. A test that says what was NOT earned logs one more minute last: its point can only
be seen after everything that was sent before it (see `Park.log_minute`).
"""

import asyncio
import time

import pytest

from tests.contracts.park import SUCCESS, Park, is_refused
from tests.contracts.people import MANAGER, TRAINEE
from tests.support import wait_until

INVALID_CERTIFICATION = '{"status":"error","message":"invalid certification"}'
HOUR = 3600
DAY = 24 * HOUR


async def test_a_shift_is_logged_and_its_points_become_visible(park: Park) -> None:
    person = park.person()
    response = await park.log(person.id, 600)
    assert (response.status_code, response.text) == (200, SUCCESS)
    assert response.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in response.headers
    await park.has_points(person.id, 10)


@pytest.mark.parametrize(
    ("duration", "points"),
    [
        (59, 0),
        (60, 1),
        (119, 1),
        (600, 10),
        (HOUR, 60),
        ("600.0", 10),
        ("119.999", 1),
        ("3600.25", 60),
        ("0600", 10),
    ],
)
async def test_a_credited_minute_earns_a_point(park: Park, duration: object, points: int) -> None:
    person = park.person()
    assert (await park.log(person.id, duration)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, points + 1)


# ------------------------------------------------------------------------------------------- durations


@pytest.mark.parametrize("duration", ["0", "0.5", "0.999", "00"])
async def test_less_than_a_second_is_400(park: Park, duration: str) -> None:
    is_refused(await park.log(park.person().id, duration), 400, "duration")


@pytest.mark.parametrize("duration", ["1", "1.9"])
async def test_a_second_is_a_shift(park: Park, duration: str) -> None:
    assert (await park.log(park.person().id, duration)).text == SUCCESS


@pytest.mark.parametrize("duration", [12 * HOUR, 12 * HOUR + 1, 24 * HOUR, f"{24 * HOUR}.9"])
async def test_from_12_to_24_hours_are_credited_12(park: Park, duration: object) -> None:
    person = park.person()
    assert (await park.log(person.id, duration)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 12 * 60 + 1)


@pytest.mark.parametrize("duration", [24 * HOUR + 1, 10**9, 10**18])
async def test_more_than_24_hours_are_400(park: Park, duration: int) -> None:
    person = park.person()
    is_refused(await park.log(person.id, duration), 400, "duration")
    await park.log_minute(person.id)
    await park.has_points(person.id, 1)


# -------------------------------------------------------------------------------------------- ended_at


async def test_a_shift_may_have_ended_up_to_7_days_ago(park: Park) -> None:
    person = park.person()
    assert (await park.log(person.id, 600, ago=7 * DAY - 60)).text == SUCCESS
    await park.has_points(person.id, 10)


@pytest.mark.parametrize("ago", [7 * DAY + 60, 30 * DAY])
async def test_a_shift_that_ended_longer_ago_is_400(park: Park, ago: int) -> None:
    person = park.person()
    is_refused(await park.log(person.id, 600, ago=ago), 400, "invalid query: ", "ended_at")
    await park.log_minute(person.id)
    await park.has_points(person.id, 1)


@pytest.mark.parametrize("ahead", [50, HOUR, 300 * DAY])
async def test_an_end_ahead_is_taken_as_the_arrival(park: Park, ahead: int) -> None:
    person = park.person()
    assert (await park.log(person.id, 120)).text == SUCCESS
    assert (await park.log(person.id, 120, ago=-ahead)).text == SUCCESS  # were it not, this would add 50 s
    assert (await park.log(person.id, 30, ago=HOUR)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 3)


@pytest.mark.parametrize("ahead", [2 * HOUR, -2 * HOUR, 30 * DAY, -30 * DAY])
async def test_a_wrong_clock_costs_no_shift_where_the_request_says_what_it_shows(
    park: Park, ahead: int
) -> None:
    person = park.person()
    for ago in (0, 600):
        assert (await park.log(person.id, 600, ago=ago - ahead, now=int(time.time()) + ahead)).text == SUCCESS
        assert (await park.log(person.id, 30, ago=HOUR)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 20 + 1)


async def test_a_duration_counts_back_from_the_arrival(park: Park) -> None:
    person = park.person()
    assert (await park.log(person.id, 600)).text == SUCCESS
    assert (await park.log(person.id, 600, ago=0)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 11)


# --------------------------------------------------------------------------------- whose place it is


async def test_a_place_asks_for_its_certification(park: Park) -> None:
    person = park.person(TRAINEE)
    response = await park.log(person.id, 600, place=1002)
    assert (response.status_code, response.text) == (400, INVALID_CERTIFICATION)
    assert (await park.grant(person.username, "char")).status_code == 200
    response = await park.log(person.id, 600, place=1002)
    assert (response.status_code, response.text) == (400, INVALID_CERTIFICATION)
    assert (await park.grant(person.username, "tot")).status_code == 200
    assert (await park.log(person.id, 600, place=1002)).text == SUCCESS
    await park.has_points(person.id, 10)


async def test_a_grant_counts_for_a_shift_from_the_moment_it_was_answered(park: Park) -> None:
    for _ in range(5):
        person = park.person(TRAINEE)
        assert (await park.grant(person.username)).status_code == 200
        assert (await park.log(person.id, 60, place=1002)).text == SUCCESS


async def test_a_revoked_certification_counts_for_a_shift_that_had_begun_and_for_none_after(
    park: Park,
) -> None:
    person = park.person(TRAINEE)
    assert (await park.grant(person.username)).status_code == 200
    assert (await park.log(person.id, 60, place=1002, ago=1000)).text == SUCCESS
    assert (await park.revoke(person.username)).status_code == 200

    assert (await park.log(person.id, 60, place=1002, ago=0)).text == SUCCESS

    async def is_refused_now() -> bool:
        return (await park.log(person.id, 1, place=1002, ago=0)).text == INVALID_CERTIFICATION

    await wait_until(is_refused_now)


async def test_a_rank_is_no_certification(park: Park) -> None:
    response = await park.log(park.person(MANAGER).id, 60, place=1002)
    assert (response.status_code, response.text) == (400, INVALID_CERTIFICATION)


@pytest.mark.parametrize("place", [1001, 1003, 77])
async def test_other_places_ask_for_none(park: Park, place: int) -> None:
    person = park.person()
    assert (await park.log(person.id, 120, place=place)).text == SUCCESS
    await park.has_points(person.id, 2)


async def test_a_training_server_asks_for_none_and_pays_none(park: Park) -> None:
    person = park.person(TRAINEE)
    assert (await park.log(person.id, 600, place=1002, training=True, ago=5000)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 1)
    assert (await park.profile(id=person.id)).text == person.profile(
        account=await park.account(person.id), points=1
    )


async def test_a_shift_without_points_makes_an_account_too(park: Park) -> None:
    person = park.person(TRAINEE)
    assert (await park.log(person.id, 600, training=True)).text == SUCCESS

    async def has_account() -> bool:
        return await park.account(person.id) is not None

    await wait_until(has_account)
    account = await park.account(person.id)
    assert (await park.profile(id=person.id)).text == person.profile(account=account)


# ------------------------------------------------------------------- one person's second earns at most once


async def test_many_short_shifts_earn_what_one_long_shift_earns(park: Park) -> None:
    person = park.person()
    for number in range(3):
        assert (await park.log(person.id, 20, ago=1000 - 100 * number)).text == SUCCESS
    await park.has_points(person.id, 1)


async def test_a_fraction_is_carried_and_never_lost(park: Park) -> None:
    person = park.person()
    for number in range(9):
        assert (await park.log(person.id, 50, ago=5000 - 100 * number)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, (9 * 50 + 60) // 60)


async def test_seconds_that_overlap_an_earlier_shift_earn_nothing(park: Park) -> None:
    person = park.person()
    end = int(time.time()) - 1000
    assert (await park.log(person.id, 600, ended_at=end)).text == SUCCESS
    assert (await park.log(person.id, 600, ended_at=end - 300)).text == SUCCESS  # half of it overlaps
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 5 + 1)


async def test_a_shift_within_an_earlier_one_earns_nothing(park: Park) -> None:
    person = park.person()
    assert (await park.log(person.id, 3600, ago=1000)).text == SUCCESS
    assert (await park.log(person.id, 600, ago=2000)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 60 + 1)


async def test_a_shift_around_earlier_ones_earns_the_gaps(park: Park) -> None:
    person = park.person()
    end = int(time.time()) - 1000
    for before in (300, 1200, 2400):
        assert (await park.log(person.id, 300, ended_at=end - before)).text == SUCCESS
    assert (await park.log(person.id, 3600, ended_at=end)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 60 + 1)


async def test_shifts_that_touch_do_not_overlap(park: Park) -> None:
    person = park.person()
    end = int(time.time()) - 1000
    for number in range(4):
        assert (await park.log(person.id, 600, ended_at=end - 600 * number)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 40 + 1)


async def test_two_places_at_once_earn_once(park: Park) -> None:
    person = park.person()
    end = int(time.time()) - 1000
    assert (await park.log(person.id, 600, ended_at=end, place=1001)).text == SUCCESS
    assert (await park.log(person.id, 600, ended_at=end, place=1003)).text == SUCCESS
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_one_persons_shifts_do_not_touch_anothers(park: Park) -> None:
    people = [park.person() for _ in range(4)]
    end = int(time.time()) - 1000
    server = park.server()
    responses = await asyncio.gather(
        *(park.log(person.id, 600, ended_at=end, server=server) for person in people)
    )
    assert {response.text for response in responses} == {SUCCESS}
    assert not [response for response in responses if "idempotent-replayed" in response.headers]
    for person in people:
        await park.has_points(person.id, 10)


async def test_shifts_at_once_earn_what_they_would_have_earned_in_a_row(park: Park) -> None:
    person = park.person()
    end = int(time.time()) - 1000
    responses = await asyncio.gather(
        *(park.log(person.id, 600, ended_at=end - 300 * number) for number in range(8))
    )
    assert {response.text for response in responses} == {SUCCESS}
    await park.log_minute(person.id)
    await park.has_points(person.id, (7 * 300 + 600) // 60 + 1)
