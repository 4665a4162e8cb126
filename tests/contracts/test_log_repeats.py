"""POST /log: a repeat is the same shift, by Idempotency-Key, by an equal end, or in the bare form of old games.

A test that says what was NOT earned logs one more minute last (see `Park.log_minute`).
"""

import asyncio
import time

import pytest

from tests.contracts.park import SUCCESS, Park, is_refused
from tests.contracts.people import GUEST, TRAINEE
from tests.support import wait_until

INVALID_CERTIFICATION = '{"status":"error","message":"invalid certification"}'


async def test_the_same_idempotency_key_is_the_same_shift(park: Park) -> None:
    person = park.person()
    shift = {"server": park.server(), "idempotency_key": f"shift-{person.id}"}
    first = await park.log(person.id, 600, **shift)
    again = await park.log(person.id, 600, **shift)
    assert (first.status_code, first.text) == (again.status_code, again.text) == (200, SUCCESS)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_many_repeats_at_once_are_one_shift(park: Park) -> None:
    person = park.person()
    end = int(time.time()) - 5000
    shift = {"server": park.server(), "idempotency_key": f"shift-{person.id}", "ended_at": end}
    responses = await asyncio.gather(*(park.log(person.id, 600, **shift) for _ in range(12)))
    assert {(response.status_code, response.text) for response in responses} == {(200, SUCCESS)}
    assert sum("idempotent-replayed" not in response.headers for response in responses) == 1
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_an_idempotency_key_with_other_parameters_is_422(park: Park) -> None:
    person, other = park.person(), park.person()
    end = int(time.time()) - 5000
    shift = {"place": 1001, "server": park.server(), "ended_at": end, "idempotency_key": f"shift-{person.id}"}
    assert (await park.log(person.id, 600, **shift)).text == SUCCESS
    for change in (
        {"place": 1003},
        {"server": park.server()},
        {"training": True},
        {"ended_at": end - 1},
        {"ended_at": None},
    ):
        is_refused(await park.log(person.id, 600, **{**shift, **change}), 422)
    is_refused(await park.log(person.id, 601, **shift), 422)
    is_refused(await park.log(other.id, 600, **shift), 422)
    assert (await park.log(person.id, 600, **shift)).headers["idempotent-replayed"] == "true"
    await park.log_minute(person.id)
    await park.log_minute(other.id)
    await park.has_points(person.id, 10 + 1)
    await park.has_points(other.id, 1)


async def test_an_idempotency_key_belongs_to_the_name_of_the_key_that_sent_it(park: Park) -> None:
    person, other = park.person(), park.person()
    second = await park.make_key("second", "roblox")
    shared = f"shift-{person.id}"
    assert (await park.log(person.id, 600, ago=5000, idempotency_key=shared)).text == SUCCESS
    response = await park.log(other.id, 300, ago=5000, idempotency_key=shared, key=second)
    assert (response.status_code, response.text) == (200, SUCCESS)
    assert "idempotent-replayed" not in response.headers
    await park.has_points(other.id, 5)


async def test_a_new_idempotency_key_is_a_new_shift_that_earns_its_uncovered_seconds(park: Park) -> None:
    person = park.person()
    shift = {"server": park.server(), "ended_at": int(time.time()) - 5000}
    assert (await park.log(person.id, 600, **shift, idempotency_key=f"one-{person.id}")).text == SUCCESS
    second = await park.log(person.id, 600, **shift, idempotency_key=f"two-{person.id}")
    assert second.text == SUCCESS
    assert "idempotent-replayed" not in second.headers
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_a_refusal_does_not_use_up_an_idempotency_key(park: Park) -> None:
    person = park.person(TRAINEE)
    shift = {"place": 1002, "server": park.server(), "ago": 5000, "idempotency_key": f"shift-{person.id}"}
    assert (await park.log(person.id, 600, **shift)).text == INVALID_CERTIFICATION
    is_refused(await park.log(person.id, 0, **shift), 400, "duration")
    assert (await park.grant(person.username)).status_code == 200
    response = await park.log(person.id, 600, **shift)
    assert (response.status_code, response.text) == (200, SUCCESS)
    assert "idempotent-replayed" not in response.headers
    await park.has_points(person.id, 10)


async def test_an_accepted_shift_is_answered_again_though_it_would_be_refused_now(park: Park) -> None:
    person = park.person(TRAINEE)
    shift = {
        "place": 1002,
        "server": park.server(),
        "ended_at": int(time.time()) - 5000,
        "idempotency_key": f"shift-{person.id}",
    }
    assert (await park.grant(person.username)).status_code == 200
    assert (await park.log(person.id, 600, **shift)).text == SUCCESS
    assert (await park.revoke(person.username)).status_code == 200

    async def is_refused_now() -> bool:
        return (await park.log(person.id, 1, place=1002, ago=0)).text == INVALID_CERTIFICATION

    await wait_until(is_refused_now)
    again = await park.log(person.id, 600, **shift)
    assert (again.status_code, again.text) == (200, SUCCESS)
    assert again.headers["idempotent-replayed"] == "true"


async def test_without_a_key_an_equal_end_is_the_same_shift(park: Park) -> None:
    person = park.person()
    shift = {"server": park.server(), "ended_at": int(time.time()) - 5000}
    first = await park.log(person.id, 600, **shift)
    again = await park.log(person.id, 600, **shift)
    assert first.text == again.text == SUCCESS
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_without_a_key_another_end_is_another_shift(park: Park) -> None:
    person = park.person()
    end = int(time.time()) - 5000
    server = park.server()
    assert (await park.log(person.id, 600, server=server, ended_at=end)).text == SUCCESS
    later = await park.log(person.id, 600, server=server, ended_at=end + 60)
    assert later.text == SUCCESS
    assert "idempotent-replayed" not in later.headers
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1 + 1)


@pytest.mark.parametrize(
    "change", [{"place": 1003}, {"server": "another"}, {"training": True}, {"duration": 601}], ids=str
)
async def test_without_a_key_any_other_parameter_makes_another_shift(
    park: Park, change: dict[str, object]
) -> None:
    person = park.person()
    shift: dict[str, object] = {"duration": 600, "server": park.server(), "ended_at": int(time.time()) - 5000}
    assert (await park.log(person.id, **shift)).text == SUCCESS
    other = await park.log(person.id, **{**shift, **change})
    assert other.text == SUCCESS
    assert "idempotent-replayed" not in other.headers
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_the_bare_form_sent_again_at_once_is_the_same_shift(park: Park) -> None:
    person = park.person()
    server = park.server()
    first = await park.log(person.id, 600, server=server)
    again = await park.log(person.id, 600, server=server)
    assert first.text == again.text == SUCCESS
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_many_bare_repeats_at_once_are_one_shift(park: Park) -> None:
    person = park.person()
    server = park.server()
    responses = await asyncio.gather(*(park.log(person.id, 600, server=server) for _ in range(8)))
    assert {response.text for response in responses} == {SUCCESS}
    assert sum("idempotent-replayed" not in response.headers for response in responses) == 1
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)


async def test_a_later_bare_repeat_is_a_new_shift_that_earns_its_uncovered_seconds(park: Park) -> None:
    person = park.person(GUEST)
    server = park.server()
    assert (await park.log(person.id, 900, server=server, ago=610)).text == SUCCESS
    later = await park.log(person.id, 900, server=server)  # 290 of its 900 s overlap: less than half
    assert later.text == SUCCESS
    assert "idempotent-replayed" not in later.headers
    await park.log_minute(person.id)
    await park.has_points(person.id, (900 + 610) // 60 + 1)


async def test_a_bare_request_for_another_server_is_another_shift(park: Park) -> None:
    person = park.person()
    assert (await park.log(person.id, 600, server=park.server())).text == SUCCESS
    other = await park.log(person.id, 600, server=park.server())
    assert other.text == SUCCESS
    assert "idempotent-replayed" not in other.headers
    await park.log_minute(person.id)
    await park.has_points(person.id, 10 + 1)
