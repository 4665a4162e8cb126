"""Who is who, asked of Roblox."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from accounts.models import Person
from accounts.plugins.roblox import RobloxIdentity
from common.errors import Unavailable
from common.mongo import Database
from tests.accounts.on_roblox import identity
from tests.standins import Fault, Forged
from tests.standins.roblox import Roblox, User
from tests.support import unique_id, wait_until

pytestmark = pytest.mark.usefixtures("patient")

TOO_MANY = Forged(400, {"errors": [{"code": 2, "message": "Too many usernames."}]})


@pytest.fixture
async def plugin(database: Database, standin: Roblox) -> AsyncIterator[RobloxIdentity]:
    """The plugin."""
    async with identity(database, standin) as own:
        yield own


def person(user: User) -> Person:
    """The user, as accounts knows people."""
    return Person(id=user.id, username=user.name)


async def test_a_username_is_found_in_any_case_and_answered_in_its_own(
    plugin: RobloxIdentity, standin: Roblox
) -> None:
    user = standin.add_user("Some_One")
    for username in ("Some_One", "some_one", "SOME_ONE"):
        assert await plugin.by_username(username) == person(user)


async def test_a_user_is_found_by_id(plugin: RobloxIdentity, standin: Roblox) -> None:
    user = standin.add_user()
    assert await plugin.by_id(user.id) == person(user)


async def test_whom_roblox_does_not_know_nobody_knows(plugin: RobloxIdentity, standin: Roblox) -> None:
    assert await plugin.by_username("Nobody") is None
    assert await plugin.by_id(unique_id()) is None
    assert len(standin.requests) == 2


async def test_a_previous_name_leads_to_the_person_with_their_present_name(
    plugin: RobloxIdentity, standin: Roblox
) -> None:
    user = standin.add_user("Present", previous=["Former"])
    assert await plugin.by_username("former") == person(user)
    assert await plugin.by_username("present") == person(user)


@pytest.mark.parametrize("is_first", [True, False])
async def test_who_has_a_name_goes_before_who_had_it(
    plugin: RobloxIdentity, standin: Roblox, *, is_first: bool
) -> None:
    has = {"requestedUsername": "Wanted", "id": 1, "name": "Wanted", "displayName": "Wanted"}
    had = {"requestedUsername": "wanted", "id": 2, "name": "Another", "displayName": "Wanted"}
    standin.faults.next(Forged(200, {"data": [has, had] if is_first else [had, has]}))
    assert await plugin.by_username("Wanted") == Person(id=1, username="Wanted")


async def test_roblox_knows_no_discord_accounts(plugin: RobloxIdentity, standin: Roblox) -> None:
    assert await plugin.by_discord(1) is None
    assert not standin.requests


@pytest.mark.parametrize("username", ["Röblox", "Roblo\N{KELVIN SIGN}", "\N{LATIN SMALL LETTER LONG S}ome"])
async def test_a_name_that_nobody_can_have_is_not_asked_for(
    plugin: RobloxIdentity, standin: Roblox, username: str
) -> None:
    assert await plugin.by_username(username) is None
    assert not standin.requests


async def test_no_key_is_sent(plugin: RobloxIdentity, standin: Roblox) -> None:
    await plugin.by_username("Nobody")
    assert "x-api-key" not in {name.lower() for name in standin.requests[0].headers}


# ------------------------------------------------------------------------------------------ remembering


async def test_what_is_known_is_not_asked_again(plugin: RobloxIdentity, standin: Roblox) -> None:
    user = standin.add_user()
    for _ in range(3):
        assert await plugin.by_username(user.name) == person(user)
        assert await plugin.by_username(user.name.upper()) == person(user)
        assert await plugin.by_id(user.id) == person(user)
        assert await plugin.by_username("Nobody") is None
    assert len(standin.requests) == 3


async def test_what_is_known_is_asked_again_after_a_while(
    plugin: RobloxIdentity, standin: Roblox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.plugins.memory.KNOWN_SECONDS", 0.0)
    user = standin.add_user("Before")
    assert await plugin.by_id(user.id) == person(user)
    user.name = "After"
    assert await plugin.by_id(user.id) == person(user)


async def test_somebody_new_is_known_soon(
    plugin: RobloxIdentity, standin: Roblox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.plugins.memory.UNKNOWN_SECONDS", 0.0)
    assert await plugin.by_username("Newcomer") is None
    user = standin.add_user("Newcomer")
    assert await plugin.by_username("Newcomer") == person(user)


async def test_no_more_than_so_many_are_remembered(
    plugin: RobloxIdentity, standin: Roblox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.plugins.memory.MOST_REMEMBERED", 2)
    one, *others = (standin.add_user() for _ in range(3))
    for user in (one, *others):
        await plugin.by_id(user.id)
    for user in reversed(others):
        await plugin.by_id(user.id)
    assert len(standin.requests) == 3
    await plugin.by_id(one.id)
    assert len(standin.requests) == 4


# --------------------------------------------------------------------------------------- asking together


async def test_those_who_ask_for_one_user_at_once_share_the_call(
    plugin: RobloxIdentity, standin: Roblox
) -> None:
    user = standin.add_user()
    standin.faults.next(Fault.SLOW)
    asked = [plugin.by_id(user.id) for _ in range(20)] + [plugin.by_username(user.name) for _ in range(20)]
    assert set(await asyncio.gather(*asked)) == {person(user)}
    assert len(standin.requests) == 2


async def test_those_who_ask_while_a_call_is_under_way_share_the_next(
    plugin: RobloxIdentity, standin: Roblox
) -> None:
    users = [standin.add_user() for _ in range(150)]
    standin.faults.next(Fault.SLOW)
    first = asyncio.create_task(plugin.by_id(users[0].id))
    await wait_until(lambda: len(standin.requests) == 1)
    found = await asyncio.gather(*(plugin.by_id(user.id) for user in users))
    assert [await first, *found] == [person(user) for user in [users[0], *users]]
    assert [len(request.json["userIds"]) for request in standin.requests] == [1, 99, 50]


async def test_what_is_wrong_with_one_name_is_not_wrong_with_the_others(
    plugin: RobloxIdentity, standin: Roblox
) -> None:
    users = [standin.add_user() for _ in range(3)]
    standin.faults.next(None, TOO_MANY, TOO_MANY)
    await plugin.by_username("Nobody")
    found = await asyncio.gather(*(plugin.by_username(user.name) for user in users))
    assert found == [None, person(users[1]), person(users[2])]
    assert [len(request.json["usernames"]) for request in standin.requests] == [1, 3, 1, 1, 1]


# ----------------------------------------------------------------------------------------------- outages


@pytest.mark.parametrize(
    "fault", [Fault.BROKEN, Fault.GARBAGE, Fault.CLOSED, Forged(403), Forged(404)], ids=str
)
async def test_an_outage_is_no_answer_and_not_remembered(
    plugin: RobloxIdentity, standin: Roblox, fault: Fault | Forged
) -> None:
    user = standin.add_user()
    standin.faults.always(fault)
    for look_up in (plugin.by_id(user.id), plugin.by_username(user.name)):
        with pytest.raises(Unavailable):
            await look_up
    standin.faults.clear()

    async def is_found() -> bool:
        try:
            return await plugin.by_id(user.id) == person(user)
        except Unavailable:  # left alone for a moment, after so many failures
            return False

    await wait_until(is_found)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": None},
        {"data": [{"id": "one", "name": "A"}]},
        {"data": [{"id": 1}]},
        {"data": [{"id": 1, "name": ["A"]}]},
        {"data": [{"id": 2**63, "name": "A"}]},
        {"data": [{"id": True, "name": "A"}]},
        {"data": [{"id": 1, "name": ""}]},
        {"data": [{"id": 1, "name": "A" * 101}]},
    ],
    ids=str,
)
async def test_a_surprise_is_no_answer(
    plugin: RobloxIdentity, standin: Roblox, body: dict[str, object]
) -> None:
    standin.faults.next(Forged(200, body))
    with pytest.raises(Unavailable):
        await plugin.by_id(1)


async def test_one_who_cannot_be_read_hinders_no_other_and_is_not_taken_for_nobody(
    plugin: RobloxIdentity, standin: Roblox
) -> None:
    users = [standin.add_user() for _ in range(3)]
    known = [{"id": user.id, "name": user.name, "displayName": None} for user in users]
    standin.faults.next(None, Forged(200, {"data": [*known[:2], {"id": users[2].id}]}))
    first = asyncio.create_task(plugin.by_id(unique_id()))
    await asyncio.sleep(0)
    found = await asyncio.gather(*(plugin.by_id(user.id) for user in users), return_exceptions=True)
    assert await first is None
    assert found[:2] == [person(user) for user in users[:2]]
    assert isinstance(found[2], Unavailable)
    assert await plugin.by_id(users[2].id) == person(users[2])  # nor is that remembered


async def test_numbers_may_come_as_text(plugin: RobloxIdentity, standin: Roblox) -> None:
    standin.faults.next(Forged(200, {"data": [{"id": "17", "name": "A", "unknown": {}}]}))
    assert await plugin.by_id(17) == Person(id=17, username="A")


async def test_the_doctor_hears_whether_it_answers(plugin: RobloxIdentity, standin: Roblox) -> None:
    assert [finding.is_right async for finding in plugin.examine()] == [True]
    standin.faults.always(Fault.BROKEN)
    (finding,) = [finding async for finding in plugin.examine()]
    assert not finding.is_right
    assert "users.roblox.com" in finding.mend
