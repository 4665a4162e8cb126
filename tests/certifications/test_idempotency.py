"""A grant or a revocation with an Idempotency-Key is done once, and answered again as it was."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from common.outgoing.headers import KEY_NAME_HEADER
from tests.certifications.builders import GUEST, MODERATOR, Member, Park, refusing_events
from tests.support import unique_id

CHANGES = ("grant", "revoke")


async def change(
    park: Park, what: str, member: Member, key: str | None, caller: str = "bot", **given: Any
) -> httpx.Response:
    """A grant or revocation as this caller; `key` is the Idempotency-Key."""
    params = {"certification": "tot", "username": member.username, "moderator": MODERATOR} | given
    headers = {KEY_NAME_HEADER: caller} | ({"Idempotency-Key": key} if key else {})
    kept = {name: str(value) for name, value in params.items() if value is not None}
    return await park.client.post(f"/certification/{what}", params=kept, headers=headers)


async def ready(park: Park, what: str) -> tuple[Member, str, int]:
    """A member for whom `what` succeeds, a new key, and how many events there are of them."""
    member = park.accounts.member()
    if what == "revoke":
        await park.grant(member)
    return member, f"key-{unique_id()}", len(await park.events(member))


def is_replay(answer: httpx.Response) -> bool:
    """Whether the answer says that an earlier request did it."""
    return bool(answer.headers.get("idempotent-replayed") == "true")


@pytest.mark.parametrize("what", CHANGES)
async def test_a_repeat_is_answered_as_the_first_and_changes_nothing(park: Park, what: str) -> None:
    member, key, events = await ready(park, what)
    first, second = [await change(park, what, member, key) for _ in range(2)]
    assert (first.status_code, second.status_code, second.text) == (200, 200, first.text)
    assert (is_replay(first), is_replay(second)) == (False, True)
    assert len(await park.events(member)) == events + 1


async def test_a_repeat_is_known_before_anything_is_judged(park: Park) -> None:
    member, key, _ = await ready(park, "grant")
    first = await change(park, "grant", member, key)
    await park.revoke(member)
    park.accounts.member(GUEST, member.id)
    park.accounts.is_away = True
    try:
        again = await change(park, "grant", member, key)
        assert (again.text, is_replay(again)) == (first.text, True)
    finally:
        park.accounts.is_away = False
    assert '"held":false' in await park.held(member)


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ("revoke", {}),
        ("grant", {"certification": "char"}),
        ("grant", {"certification": "fly"}),
        ("grant", {"moderator": "401"}),
        ("grant", {"moderator": f"roblox:{MODERATOR}"}),
        ("grant", {"username": "Somebody"}),
        ("grant", {"username": None, "id": 1}),
    ],
)
async def test_a_key_that_was_used_for_something_else_is_422(
    park: Park, what: str, given: dict[str, Any]
) -> None:
    member, key, _ = await ready(park, "grant")
    await change(park, "grant", member, key)
    answer = await change(park, what, member, key, **given)
    assert answer.status_code == 422
    assert answer.json() == {
        "status": "error",
        "message": "this Idempotency-Key was used for another request",
    }
    assert '"held":true' in await park.held(member)


async def test_the_same_key_of_another_caller_is_another_key(park: Park) -> None:
    member, key, _ = await ready(park, "grant")
    assert (await change(park, "grant", member, key)).status_code == 200
    assert (await change(park, "grant", member, key, caller="console")).status_code == 400


@pytest.mark.parametrize("what", CHANGES)
async def test_without_a_key_a_repeat_is_refused(park: Park, what: str) -> None:
    member, _, _ = await ready(park, what)
    assert [(await change(park, what, member, None)).status_code for _ in range(2)] == [200, 400]


async def test_a_refusal_leaves_nothing_behind(park: Park) -> None:
    member, key, _ = await ready(park, "grant")
    assert (await change(park, "revoke", member, key)).status_code == 400
    assert (await change(park, "grant", member, key, certification="fly")).status_code == 400
    assert (await change(park, "grant", member, key)).status_code == 200


@pytest.mark.parametrize("what", CHANGES)
async def test_what_could_not_be_stored_may_be_sent_again(park: Park, what: str) -> None:
    member, key, events = await ready(park, what)
    async with refusing_events(park.database):
        assert (await change(park, what, member, key)).status_code == 500
    again = await change(park, what, member, key)
    assert (again.status_code, is_replay(again)) == (200, False)
    assert len(await park.events(member)) == events + 1


@pytest.mark.parametrize("what", CHANGES)
async def test_of_many_at_once_one_is_done_and_all_succeed(park: Park, what: str) -> None:
    for _ in range(3):
        member, key, events = await ready(park, what)
        answers = await asyncio.gather(*(change(park, what, member, key) for _ in range(8)))
        assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
        assert sum(not is_replay(answer) for answer in answers) == 1
        assert len(await park.events(member)) == events + 1


async def test_of_two_at_once_that_ask_for_something_else_one_is_422(park: Park) -> None:
    member, key, _ = await ready(park, "grant")
    answers = await asyncio.gather(
        *(change(park, "grant", member, key, certification=code) for code in ("tot", "char"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 422]
    assert len(await park.records(member)) == 1


async def test_after_seven_days_a_key_is_new(park: Park) -> None:
    member, key, _ = await ready(park, "grant")
    assert (await change(park, "grant", member, key)).status_code == 200
    records = park.database["idempotency"]
    for age, status in ((timedelta(days=6, hours=23), 200), (timedelta(days=7, minutes=1), 400)):
        await records.update_one({"_id": f"bot:{key}"}, {"$set": {"at": datetime.now(UTC) - age}})
        assert (await change(park, "grant", member, key)).status_code == status
    assert (await change(park, "revoke", member, key)).status_code == 200


async def test_a_key_is_given_once_and_is_not_too_long(park: Park) -> None:
    member = park.accounts.member()
    assert (await change(park, "grant", member, "k" * 256)).status_code == 400
    assert (await change(park, "grant", member, "k" * 255)).status_code == 200
