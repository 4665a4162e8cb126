"""POST /log by wrong clocks, theirs or ours: nothing is refused for one, and nothing is paid twice."""

import time
from typing import Any

import pytest

from common.mongo import Document
from shifts.models import LogQuery
from tests.shifts.builders import bare, log, shift
from tests.shifts.conftest import Park
from tests.support import unique_id

NOW = 1_700_000_000
MINUTE, HOUR, DAY = 60, 3600, 24 * 3600


async def send(park: Park, parameters: dict[str, Any], at: int, idempotency_key: str | None = None) -> bool:
    """Log it, arriving at a moment of our clock (Unix s); whether it was recorded before."""
    return await park.service.log(LogQuery(**parameters), "game", idempotency_key, arrived_at=at)


async def recorded(park: Park, user: int) -> list[Document]:
    """The person's shifts, in the order in which they were recorded."""
    return await park.database["shifts"].find({"user": user}).sort("_id").to_list()


async def intervals(park: Park, user: int) -> list[tuple[int, int, int]]:
    """Start, end, and credited seconds of the person's shifts."""
    return [
        (one["started_at"], one["ended_at"], one["credited_seconds"]) for one in await recorded(park, user)
    ]


async def test_a_game_clock_an_hour_fast_costs_no_shift_and_its_retry_is_the_same_shift(park: Park) -> None:
    parameters = shift(ended_at=NOW + HOUR)
    assert not await send(park, parameters, NOW)
    for later in (1, 10 * MINUTE, HOUR + 1, 3 * HOUR, 6 * DAY):
        assert await send(park, parameters, NOW + later)
    (stored,) = await recorded(park, parameters["id"])
    assert (stored["started_at"], stored["ended_at"], stored["credited_seconds"]) == (NOW - 600, NOW, 600)
    assert (stored["given_ended_at"], stored["flags"]) == (NOW + HOUR, ["clock"])


async def test_two_shifts_of_a_server_two_hours_fast_that_says_so_are_both_paid_in_full(park: Park) -> None:
    user, fast = unique_id(), 2 * HOUR
    first = shift(id=user, ended_at=NOW - 600 + fast)
    second = shift(id=user, ended_at=NOW + fast)
    for parameters in (first, second):
        assert not await send(park, parameters | {"now": NOW + fast + 5}, NOW + 5)
    for parameters in (first, second):
        assert await send(park, parameters | {"now": NOW + fast + HOUR}, NOW + HOUR)
    assert await intervals(park, user) == [(NOW - 1200, NOW - 600, 600), (NOW - 600, NOW, 600)]
    assert [one["flags"] for one in await recorded(park, user)] == [["clock"], ["clock"]]


@pytest.mark.parametrize("idempotency_key", [None, "key"])
@pytest.mark.parametrize("sends_now", [False, True])
async def test_our_clock_two_minutes_slow_refuses_nothing_and_counts_a_retry_once(
    park: Park, sends_now: bool, idempotency_key: str | None
) -> None:
    parameters = shift(ended_at=NOW)
    key = idempotency_key and f"{idempotency_key}-{parameters['id']}"
    for number, later in enumerate((1, 30, 10 * MINUTE)):
        sent = {"now": NOW + later} if sends_now else {}
        assert await send(park, parameters | sent, NOW + later - 2 * MINUTE, key) == bool(number)
    (stored,) = await recorded(park, parameters["id"])
    assert (stored["credited_seconds"], stored["flags"]) == (600, ["clock"])


@pytest.mark.parametrize("idempotency_key", [None, "key"])
async def test_a_retry_after_our_clock_was_mended_counts_once(
    park: Park, idempotency_key: str | None
) -> None:
    for before, after in ((-2 * HOUR, 0), (0, -2 * HOUR), (2 * HOUR, 0), (0, 3 * DAY)):
        parameters = shift(ended_at=NOW)
        key = idempotency_key and f"{idempotency_key}-{parameters['id']}"
        assert not await send(park, parameters | {"now": NOW + 1}, NOW + 1 + before, key)
        assert await send(park, parameters | {"now": NOW + 9}, NOW + 9 + after, key)
        (stored,) = await recorded(park, parameters["id"])
        assert stored["credited_seconds"] == 600


async def test_a_retry_that_says_what_the_time_is_repeats_a_shift_that_did_not(park: Park) -> None:
    parameters = shift(ended_at=NOW + HOUR)
    assert not await send(park, parameters, NOW)
    assert await send(park, parameters | {"now": NOW + HOUR + 5}, NOW + 5)
    assert await intervals(park, parameters["id"]) == [(NOW - 600, NOW, 600)]


async def test_how_old_a_shift_is_is_judged_by_the_corrected_end(park: Park) -> None:
    slow = 30 * DAY
    parameters = shift(ended_at=NOW - slow)
    assert not await send(park, parameters | {"now": NOW - slow + 5}, NOW + 5)
    assert await intervals(park, parameters["id"]) == [(NOW - 600, NOW, 600)]
    answer = await log(park.client, shift(ended_at=int(time.time()), now=int(time.time()) + 7 * DAY + HOUR))
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "invalid query: ended_at must be at most 7 days old",
    )


@pytest.mark.parametrize(("ahead", "flags"), [(60, []), (61, ["clock"]), (-60, []), (-61, ["clock"])])
async def test_clocks_that_differ_by_more_than_a_minute_are_flagged(
    park: Park, ahead: int, flags: list[str]
) -> None:
    parameters = shift(ended_at=NOW - HOUR + ahead, now=NOW + ahead)
    assert not await send(park, parameters, NOW)
    (stored,) = await recorded(park, parameters["id"])
    assert (stored["ended_at"], stored["flags"]) == (NOW - HOUR, flags)


async def test_an_end_after_the_moment_of_sending_is_taken_as_the_arrival(park: Park) -> None:
    parameters = shift(ended_at=NOW + 500, now=NOW)
    assert not await send(park, parameters, NOW)
    (stored,) = await recorded(park, parameters["id"])
    assert (stored["ended_at"], stored["flags"]) == (NOW, ["clock"])


async def test_the_senders_clock_is_not_what_a_key_is_compared_by(park: Park) -> None:
    parameters = shift()
    key = f"key-{parameters['id']}"
    for now in (None, int(time.time()), 5, int(time.time()) + DAY):
        sent = parameters if now is None else parameters | {"now": now}
        assert (await log(park.client, sent, key)).status_code == 200
    assert len(await recorded(park, parameters["id"])) == 1


async def test_the_senders_clock_means_nothing_without_an_end(park: Park) -> None:
    parameters = bare(now=5)
    for _ in range(2):
        assert (await log(park.client, parameters)).status_code == 200
    (stored,) = await recorded(park, parameters["id"])
    assert stored["flags"] == []
    assert stored["ended_at"] >= int(time.time()) - HOUR


@pytest.mark.parametrize("ended_at", [10**12, 10**18 - 1])
@pytest.mark.parametrize("now", [None, 0, 10**18 - 1])
async def test_however_wrong_a_clock_is_an_answer_comes_and_a_retry_is_answered_alike(
    park: Park, ended_at: int, now: int | None
) -> None:
    parameters = shift(ended_at=ended_at) | ({} if now is None else {"now": now})
    first, again = [await log(park.client, parameters) for _ in range(2)]
    assert first.status_code == again.status_code == (400 if now and now > ended_at else 200)
    assert len(await recorded(park, parameters["id"])) == (1 if first.status_code == 200 else 0)


@pytest.mark.parametrize("name", ["ended_at", "now"])
async def test_what_no_clock_says_is_refused_in_words(park: Park, name: str) -> None:
    answer = await log(park.client, shift() | {name: 10**18})
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        f"invalid query: {name} must be a time in Unix seconds",
    )
