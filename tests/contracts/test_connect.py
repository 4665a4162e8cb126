"""GET /connect: who a joining player is, and whether they may be on this server."""

import pytest

from tests.contracts.park import CODES, Park
from tests.contracts.people import CAST, EXECUTIVE, GUEST, MANAGER, RANKS, SENIOR, TRAINEE, Rank
from tests.support import unique_id

ALL = ",".join(CODES)


def body(certifications: str = "", *, auth: bool = True, clearance: int = 0) -> str:
    return f'{{"certifications":"{certifications}","auth":{"true" if auth else "false"},"clearance":{clearance}}}'


@pytest.mark.parametrize("rank", RANKS, ids=lambda rank: rank.name)
async def test_clearance_is_the_highest_threshold_that_the_rank_reaches(park: Park, rank: Rank) -> None:
    response = await park.connect(park.person(rank).id, 1001)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == body(clearance=rank.clearance)


@pytest.mark.parametrize(
    ("rank", "auth"),
    [(GUEST, False), (TRAINEE, False), (CAST, False), (SENIOR, True), (MANAGER, True), (EXECUTIVE, True)],
    ids=lambda value: getattr(value, "name", str(value)),
)
async def test_a_place_lets_in_who_reaches_its_clearance(park: Park, rank: Rank, *, auth: bool) -> None:
    response = await park.connect(park.person(rank).id, 1003)
    assert response.text == body(auth=auth, clearance=rank.clearance)


@pytest.mark.parametrize("place", [1002, 77, 2**63 - 1])
async def test_a_place_without_a_clearance_lets_anyone_in(park: Park, place: int) -> None:
    assert (await park.connect(park.person().id, place)).text == body()


async def test_a_player_nobody_knows_is_answered_from_the_ranks_alone(park: Park) -> None:
    nobody = unique_id()
    assert (await park.connect(nobody)).text == body()
    assert (await park.connect(nobody, 1003)).text == body(auth=False)
    assert (await park.profile(id=nobody)).status_code == 404


async def test_a_player_who_never_worked_has_their_rank(park: Park) -> None:
    manager = park.person(MANAGER)
    assert (await park.connect(manager.id)).text == body(clearance=3)


async def test_certifications_come_in_the_order_of_the_configuration(park: Park) -> None:
    trainee = park.person(TRAINEE)
    for code in ("rnrc", "char", "tot"):
        assert (await park.grant(trainee.username, code)).status_code == 200
    await park.wait_for_certifications(trainee.id, "char", "tot", "rnrc")
    assert (await park.connect(trainee.id)).text == body("char,tot,rnrc")


async def test_a_revoked_certification_is_gone(park: Park) -> None:
    trainee = park.person(TRAINEE)
    assert (await park.grant(trainee.username, "mtp")).status_code == 200
    assert (await park.grant(trainee.username, "btmr")).status_code == 200
    await park.wait_for_certifications(trainee.id, "mtp", "btmr")
    assert (await park.revoke(trainee.username, "mtp")).status_code == 200
    await park.wait_for_certifications(trainee.id, "btmr")
    assert (await park.connect(trainee.id)).text == body("btmr")


@pytest.mark.parametrize("rank", RANKS, ids=lambda rank: rank.name)
async def test_a_training_server_gives_every_certification_and_lets_in_trainees_and_cast(
    park: Park, rank: Rank
) -> None:
    response = await park.connect(park.person(rank).id, 1001, training=True)
    assert response.text == body(ALL, auth=rank is not GUEST, clearance=rank.clearance)


@pytest.mark.parametrize("rank", RANKS, ids=lambda rank: rank.name)
async def test_a_training_server_asks_for_the_clearance_of_its_place_too(park: Park, rank: Rank) -> None:
    response = await park.connect(park.person(rank).id, 1003, training=True)
    assert response.text == body(ALL, auth=rank.clearance >= 2, clearance=rank.clearance)


async def test_what_a_training_server_gives_is_not_held(park: Park) -> None:
    trainee = park.person(TRAINEE)
    await park.connect(trainee.id, training=True)
    assert (await park.connect(trainee.id)).text == body()
    account = await park.account(trainee.id)
    assert (await park.profile(id=trainee.id)).text == trainee.profile(account=account)
