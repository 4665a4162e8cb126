"""What a group that sets things otherwise gets, and a plugin that somebody else wrote."""

from collections.abc import AsyncIterator

import pytest

from tests.contracts.park import Park, changed_config, is_refused, open_park
from tests.contracts.people import CAST, GUEST, TRAINEE
from tests.contracts.routes import PROFILE
from tests.support import unique_id

UNKNOWN_PLACE = '{"status":"error","message":"unknown place"}'
COULD_NOT_RANK = '{"status":"error","message":"couldn\'t rank user"}'

PLUGIN = """
from accounts.errors import RankRefused
from accounts.plugins.local import LocalRanking


class StrictRanking(LocalRanking):
    async def set(self, user, rankid):
        raise RankRefused("the group's owner sets ranks by hand")
"""
ENTRY_POINTS = "[callboard.ranking]\nstrict = strict_ranking:StrictRanking\n"
METADATA = "Metadata-Version: 2.1\nName: strict-ranking\nVersion: 1.0\n"


@pytest.fixture(scope="module")
async def strict_park(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Park]:
    """Refuses unlisted places, gives nothing away on training servers, and cannot set ranks."""
    folder = tmp_path_factory.mktemp("strict")
    plugins = folder / "plugins"
    information = plugins / "strict_ranking-1.0.dist-info"
    information.mkdir(parents=True)
    (plugins / "strict_ranking.py").write_text(PLUGIN)
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    (information / "METADATA").write_text(METADATA)
    config = changed_config(
        folder,
        {
            'unknown = "accept"': 'unknown = "refuse"',
            "grants_all = true": "grants_all = false",
            'ranking = "local"': 'ranking = "strict"',
            'char = { name = "Character performer" }': 'char = { name = "", minimum_rank = "Cast Member" }',
            "longest_credited_hours = 12": "longest_credited_hours = 1",
            "longest_answer = 4000": "longest_answer = 10",
            'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "5/min"',
        },
    )
    running = await open_park(folder, form="strict", config=config, path=str(plugins))
    try:
        yield running
    finally:
        await running.stop()


async def test_an_unlisted_place_is_refused(strict_park: Park) -> None:
    person = strict_park.person(CAST)
    for response in (
        await strict_park.connect(person.id, 77),
        await strict_park.log(person.id, 60, place=77),
    ):
        assert (response.status_code, response.text) == (400, UNKNOWN_PLACE)
    assert (await strict_park.connect(person.id, 1001)).status_code == 200
    assert (await strict_park.log(person.id, 60, place=1001)).status_code == 200


async def test_a_training_server_gives_only_what_is_held(strict_park: Park) -> None:
    person = strict_park.person(TRAINEE)
    response = await strict_park.connect(person.id, training=True)
    assert response.text == '{"certifications":"","auth":true,"clearance":0}'
    assert (await strict_park.grant(person.username, "tot")).status_code == 200
    await strict_park.wait_for_certifications(person.id, "tot")
    response = await strict_park.connect(person.id, training=True)
    assert response.text == '{"certifications":"tot","auth":true,"clearance":0}'


async def test_a_certification_may_ask_for_a_higher_rank(strict_park: Park) -> None:
    trainee, cast = strict_park.person(TRAINEE), strict_park.person(CAST)
    assert (await strict_park.grant(trainee.username, "char")).status_code == 403
    assert (await strict_park.grant(trainee.username, "mtp")).status_code == 200
    assert (await strict_park.grant(cast.username, "char")).status_code == 200


async def test_a_rank_that_cannot_be_set_is_502_and_nothing_changes(strict_park: Park) -> None:
    person = strict_park.person(GUEST)
    for _ in range(2):
        response = await strict_park.approve(person.id)
        assert (response.status_code, response.text) == (502, COULD_NOT_RANK)
    assert (await strict_park.profile(id=person.id)).text == person.profile()


async def test_the_longest_credited_shift_is_configured(strict_park: Park) -> None:
    person = strict_park.person(CAST)
    assert (await strict_park.log(person.id, 3 * 3600)).status_code == 200
    await strict_park.log_minute(person.id)
    await strict_park.has_points(person.id, 60 + 1)


async def test_the_longest_answer_is_configured(strict_park: Park) -> None:
    fits = dict.fromkeys(("q1", "q2", "q3", "q4"), "x" * 10)
    assert (await strict_park.upload(unique_id(), json=fits)).status_code == 200
    is_refused(await strict_park.upload(unique_id(), json={**fits, "q3": "x" * 11}), 400, "q3")


async def test_an_address_that_tries_many_wrong_keys_gets_429_and_right_keys_still_pass(
    strict_park: Park,
) -> None:
    responses = [await PROFILE.call(strict_park, key=f"nonsense{number}") for number in range(7)]
    is_refused(responses[0], 401, "invalid key")
    is_refused(responses[-1], 429)
    assert 1 <= int(responses[-1].headers["Retry-After"]) <= 60
    assert (await PROFILE.call(strict_park)).status_code == 200


async def test_everything_is_consistent_in_the_end(strict_park: Park) -> None:
    await strict_park.callboard("verify")
