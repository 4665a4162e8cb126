"""POST /certification/grant and /certification/revoke."""

import asyncio
from collections import Counter

import pytest

from tests.contracts.park import CODES, NO_SUCH_USER, Park, is_refused
from tests.contracts.people import CAST, EXECUTIVE, GUEST, MANAGER, SENIOR, TRAINEE, Person, Rank
from tests.contracts.routes import GRANT, REVOKE, Route, name

TOO_LOW = (
    '{"status":"error","discord":"The requested user does not meet the rank pre-requisites to receive a '
    'certification."}'
)


def shown(username: str) -> str:
    return username.replace("_", r"\\_")


def granted(username: str, code: str = "tot") -> str:
    return f'{{"status":"success","discord":"Successfully granted **{shown(username)}** the **{code}** certification."}}'


def revoked(username: str, code: str = "tot") -> str:
    return f'{{"status":"success","discord":"Successfully revoked **{shown(username)}**\'s **{code}** certification."}}'


def already_held(username: str, code: str = "tot") -> str:
    return f'{{"status":"error","discord":"**{shown(username)}** already has the **{code}** certification."}}'


def not_held(username: str, code: str = "tot") -> str:
    return (
        f'{{"status":"error","discord":"**{shown(username)}** doesn\'t have the **{code}** certification."}}'
    )


@pytest.mark.parametrize("code", CODES)
async def test_a_certification_is_granted_and_becomes_visible(park: Park, code: str) -> None:
    person = park.person(TRAINEE)
    response = await park.grant(person.username, code)
    assert (response.status_code, response.text) == (200, granted(person.username, code))
    assert response.headers["content-type"] == "application/json"
    await park.wait_for_certifications(person.id, code)
    assert (await park.connect(person.id)).text == f'{{"certifications":"{code}","auth":true,"clearance":0}}'


@pytest.mark.parametrize("rank", [TRAINEE, CAST, SENIOR, MANAGER, EXECUTIVE], ids=lambda rank: rank.name)
async def test_the_trainee_rank_and_above_may_be_certified(park: Park, rank: Rank) -> None:
    person = park.person(rank)
    assert (await park.grant(person.username)).text == granted(person.username)


async def test_a_rank_below_trainee_may_not_be_certified(park: Park) -> None:
    guest = park.person(GUEST)
    response = await park.grant(guest.username)
    assert (response.status_code, response.text) == (403, TOO_LOW)
    assert (await park.profile(id=guest.id)).text == guest.profile()


async def test_somebody_just_promoted_may_be_certified(park: Park) -> None:
    guest = park.person(GUEST)
    assert (await park.grant(guest.username)).status_code == 403
    assert (await park.approve(guest.id)).status_code == 200
    assert (await park.grant(guest.username)).text == granted(guest.username)


@pytest.mark.parametrize("route", [GRANT, REVOKE], ids=name)
@pytest.mark.parametrize("code", ["nope", "TOT", "tot,char", "$where", "certifications.tot"])
async def test_an_unknown_certification_is_400_and_the_known_ones_are_named(
    park: Park, route: Route, code: str
) -> None:
    response = await route.call(park, {"certification": code, "username": park.person(TRAINEE).username})
    is_refused(response, 400, "unknown certification", *CODES)


@pytest.mark.parametrize("route", [GRANT, REVOKE], ids=name)
async def test_an_unknown_user_is_404(park: Park, route: Route) -> None:
    response = await route.call(park, {"username": "NobodyOfThisName"})
    assert (response.status_code, response.text) == (404, NO_SUCH_USER)


async def test_a_certification_that_is_held_is_not_granted_again(park: Park) -> None:
    person = park.person(TRAINEE)
    assert (await park.grant(person.username)).status_code == 200
    response = await park.grant(person.username)
    assert (response.status_code, response.text) == (400, already_held(person.username))


async def test_a_certification_is_revoked_and_no_longer_visible(park: Park) -> None:
    person = park.person(CAST)
    assert (await park.grant(person.username)).status_code == 200
    await park.wait_for_certifications(person.id, "tot")
    response = await park.revoke(person.username)
    assert (response.status_code, response.text) == (200, revoked(person.username))
    await park.wait_for_certifications(person.id)
    assert (await park.connect(person.id)).text == '{"certifications":"","auth":true,"clearance":1}'


async def test_a_certification_that_is_not_held_is_not_revoked(park: Park) -> None:
    person = park.person(TRAINEE)
    response = await park.revoke(person.username)
    assert (response.status_code, response.text) == (400, not_held(person.username))
    assert (await park.grant(person.username)).status_code == 200
    assert (await park.revoke(person.username)).status_code == 200
    response = await park.revoke(person.username)
    assert (response.status_code, response.text) == (400, not_held(person.username))


async def test_a_certification_is_granted_anew_after_it_was_revoked(park: Park) -> None:
    person = park.person(TRAINEE)
    for _ in range(3):
        assert (await park.grant(person.username)).text == granted(person.username)
        assert (await park.revoke(person.username)).text == revoked(person.username)
    assert (await park.grant(person.username)).text == granted(person.username)
    await park.wait_for_certifications(person.id, "tot")


async def test_revoking_asks_for_no_rank(park: Park) -> None:
    person = park.person(TRAINEE)
    assert (await park.grant(person.username)).status_code == 200
    await park.admit([Person(person.id, person.username, person.discord, GUEST)])
    assert (await park.revoke(person.username)).text == revoked(person.username)


async def test_the_username_matches_in_any_case_and_is_answered_in_its_own(park: Park) -> None:
    person = park.person(TRAINEE)
    assert (await park.grant(person.username.upper())).text == granted(person.username)
    assert (await park.grant(person.username.lower())).text == already_held(person.username)
    assert (await park.revoke(person.username.swapcase())).text == revoked(person.username)
    assert (await park.revoke(person.username.upper())).text == not_held(person.username)


async def test_the_moderator_is_a_discord_id_or_a_roblox_id(park: Park) -> None:
    person = park.person(TRAINEE)
    assert (await park.grant(person.username, moderator="400000000000000004")).status_code == 200
    assert (await park.revoke(person.username, moderator="roblox:4")).status_code == 200
    for moderator in ("ParkManager", "discord:4", "roblox:", "0"):
        is_refused(await park.grant(person.username, moderator=moderator), 400, "invalid query: moderator")


@pytest.mark.parametrize("route", [GRANT, REVOKE], ids=name)
async def test_the_person_is_named_by_exactly_one_of_username_id_and_discord(
    park: Park, route: Route
) -> None:
    person = park.person(TRAINEE)
    for number, named in enumerate(({"id": person.id}, {"discord": person.discord})):
        if route is REVOKE:
            assert (await park.grant(person.username, CODES[number])).status_code == 200
        response = await route.call(park, {"username": None, "certification": CODES[number], **named})
        text = (granted if route is GRANT else revoked)(person.username, CODES[number])
        assert (response.status_code, response.text) == (200, text)
    for several in ({"username": None}, {"id": person.id}, {"username": None, "id": 1, "discord": 1}):
        response = await route.call(park, several)
        is_refused(response, 400, "invalid query: expected exactly one of id, username and discord")


async def test_a_repeat_with_the_same_idempotency_key_is_answered_as_the_first(park: Park) -> None:
    person = park.person(TRAINEE)
    key = {"Idempotency-Key": f"grant-{person.id}"}
    for is_repeat in (False, True):
        response = await GRANT.call(park, {"username": person.username}, headers=key)
        assert (response.status_code, response.text) == (200, granted(person.username))
        assert ("idempotent-replayed" in response.headers) == is_repeat
    is_refused(
        await GRANT.call(park, {"username": person.username, "certification": "char"}, headers=key), 422
    )
    is_refused(await REVOKE.call(park, {"username": person.username}, headers=key), 422)


async def test_of_many_grants_at_once_one_succeeds(park: Park) -> None:
    person = park.person(TRAINEE)
    responses = await asyncio.gather(*(park.grant(person.username) for _ in range(8)))
    assert Counter(response.text for response in responses) == {
        granted(person.username): 1,
        already_held(person.username): 7,
    }
