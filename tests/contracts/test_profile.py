"""GET /profile: what is known of a user."""

import pytest

from tests.contracts.park import NO_SUCH_USER, SUCCESS, Park, is_refused
from tests.contracts.people import CAST, GUEST, RANKS, TRAINEE, Person, Rank
from tests.support import unique_id


async def test_a_guest_without_an_account_has_a_rank_no_points_and_no_account_id(park: Park) -> None:
    person = park.person(GUEST)
    response = await park.profile(id=person.id)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == person.profile()


@pytest.mark.parametrize("rank", RANKS[1:], ids=lambda rank: rank.name)
async def test_everybody_above_the_lowest_rank_has_an_account(park: Park, rank: Rank) -> None:
    person = park.person(rank)
    account = await park.account(person.id)
    assert account is not None
    assert (await park.profile(id=person.id)).text == person.profile(account=account)


async def test_a_user_with_an_account_shows_its_id(park: Park) -> None:
    person = park.person()
    assert (await park.log(person.id, 60)).text == SUCCESS
    await park.has_points(person.id, 1)
    account = await park.account(person.id)
    assert account is not None
    assert len(account) == 24
    assert int(account, 16)
    assert (await park.profile(id=person.id)).text == person.profile(account=account, points=1)


async def test_the_account_id_stays_the_same(park: Park) -> None:
    person = park.person(TRAINEE)
    await park.log_minute(person.id)
    await park.has_points(person.id, 1)
    account = await park.account(person.id)
    assert (await park.grant(person.username, "rnrc")).status_code == 200
    assert (await park.grant(person.username, "char")).status_code == 200
    expected = person.profile(account=account, points=1, certifications=("char", "rnrc"))
    await park.shows(expected, id=person.id)


async def test_a_user_is_found_by_id_username_or_discord(park: Park) -> None:
    person = park.person()
    for params in ({"id": person.id}, {"username": person.username}, {"discord": person.discord}):
        assert (await park.profile(**params)).text == person.profile()


async def test_a_username_is_found_in_any_case_and_answered_in_its_own(park: Park) -> None:
    person = park.person()
    for username in (person.username.lower(), person.username.upper(), person.username.swapcase()):
        assert username != person.username
        assert (await park.profile(username=username)).text == person.profile()


async def test_the_shipped_people_are_there(park: Park) -> None:
    for user, username, rank in (
        (1, "Roblox", "Guest"),
        (2, "ParkStudent", "University Student"),
        (3, "ParkCast", "Cast Member"),
        (4, "ParkManager", "Manager"),
    ):
        answer = (await park.profile(username=username)).json()
        assert (answer["id"], answer["username"], answer["rank"]) == (user, username, rank)
    assert (await park.profile(discord=300000000000000003)).json()["id"] == 3


@pytest.mark.parametrize("parameter", ["id", "discord", "username"])
async def test_a_user_nobody_knows_is_404(park: Park, parameter: str) -> None:
    response = await park.profile(**{parameter: unique_id()})
    assert (response.status_code, response.text) == (404, NO_SUCH_USER)


@pytest.mark.parametrize(
    "username", [".*", "Player_%", "^Roblox$", "Robl", "Roblox'", '{"$ne":""}', "$where", "Röblox"]
)
async def test_a_username_is_nothing_but_a_name(park: Park, username: str) -> None:
    response = await park.profile(username=username)
    assert (response.status_code, response.text) == (404, NO_SUCH_USER)


async def test_the_parameters_are_exactly_one(park: Park) -> None:
    person = park.person()
    is_refused(await park.profile(), 400, "invalid query: ", "id", "username", "discord")
    for params in (
        {"id": person.id, "username": person.username},
        {"id": person.id, "discord": person.discord},
        {"username": person.username, "discord": person.discord},
        {"id": person.id, "username": person.username, "discord": person.discord},
    ):
        is_refused(await park.profile(**params), 400, "invalid query: ", "id", "username", "discord")


async def test_certifications_are_those_really_held_in_the_order_of_the_configuration(park: Park) -> None:
    person = park.person(CAST)
    for code in ("btmr", "tot", "char"):
        assert (await park.grant(person.username, code)).status_code == 200
    await park.wait_for_certifications(person.id, "char", "tot", "btmr")
    account = await park.account(person.id)
    expected = person.profile(account=account, certifications=("char", "tot", "btmr"))
    assert (await park.profile(id=person.id)).text == expected


async def test_an_import_is_visible_at_once(park: Park) -> None:
    person = Person(unique_id(), f"Newcomer{unique_id()}", unique_id(), GUEST)
    assert (await park.profile(id=person.id)).status_code == 404
    await park.admit([person])
    assert (await park.profile(id=person.id)).text == person.profile()
    promoted = Person(person.id, person.username, person.discord, CAST)
    await park.admit([promoted])
    account = await park.account(person.id)
    assert account is not None
    assert (await park.profile(id=person.id)).text == promoted.profile(account=account)
    assert (await park.connect(person.id)).json()["clearance"] == 1


async def test_an_import_changes_somebody_who_has_an_account_at_once(park: Park) -> None:
    person = park.person()
    await park.log_minute(person.id)
    await park.has_points(person.id, 1)
    account = await park.account(person.id)
    promoted = Person(person.id, f"Renamed_{person.id}", person.discord, CAST)
    await park.admit([promoted])
    for params in ({"id": person.id}, {"username": promoted.username}, {"discord": person.discord}):
        assert (await park.profile(**params)).text == promoted.profile(account=account, points=1)
    assert (await park.profile(username=person.username)).status_code == 404


async def test_somebody_whom_no_plugin_knows_keeps_the_points_they_earned(park: Park) -> None:
    stranger = unique_id()
    assert (await park.log(stranger, 300)).text == SUCCESS
    await park.has_points(stranger, 5)
    answer = (await park.profile(id=stranger)).json()
    assert answer["id"] == stranger
    assert answer["rank"] == "Guest"
    assert answer["_id"]
