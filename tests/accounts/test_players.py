"""/connect, /profile and the internal routes: who a player is and may do."""

import asyncio
from datetime import UTC, datetime
from functools import partial

import pytest

from accounts.models import LocalPerson
from accounts.people import ImportRefused, begin, import_people
from accounts.repository import People
from common.errors import ConfigurationError
from common.events import CertificationGranted, CertificationRevoked
from common.group import load_group
from common.messaging.handling import Handled
from common.mongo import connect, when_there
from common.storage.limits import StorageLimits
from tests.accounts.builders import granted, revoked, shift_logged
from tests.accounts.conftest import Park
from tests.support import ROOT, unique_id, wait_until
from tests.support.machine import machine


async def test_a_profile_is_answered_to_the_character(park: Park) -> None:
    person = await park.person()
    await park.service.record_certifications([granted(person.id, "tot", 1)])
    account = await park.database["accounts"].find_one({"id": person.id})
    assert account is not None
    answer = await park.client.get("/profile", params={"id": person.id})
    assert answer.text == (
        f'{{"status":"success","id":{person.id},"_id":"{account["_id"]}","username":"{person.username}",'
        '"points":0,"rank":"Guest","rankid":0,"cast":false,"certifications":["tot"]}'
    )


async def test_a_guest_without_an_account_has_no_points_and_no_account_id(park: Park) -> None:
    person = await park.person("Guest")
    profile = await park.profile(id=person.id)
    assert "_id" not in profile
    assert (profile["points"], profile["rank"], profile["rankid"], profile["cast"]) == (0, "Guest", 0, False)


async def test_whoever_stands_above_the_lowest_rank_has_an_account_without_having_worked(park: Park) -> None:
    person = await park.person("Cast Member")
    profile = await park.profile(id=person.id)
    assert len(profile["_id"]) == 24
    assert (profile["points"], profile["rank"], profile["rankid"], profile["cast"]) == (
        0,
        "Cast Member",
        20,
        True,
    )


async def test_a_user_whom_nobody_knows_is_not_found(park: Park) -> None:
    for query in ({"id": unique_id()}, {"username": "Nobody_At_All"}, {"discord": unique_id()}):
        answer = await park.client.get("/profile", params=query)
        assert answer.status_code == 404
        assert answer.text == (
            '{"status":"error","message":"couldn\'t find user","discord":"We couldn\'t find the requested user, '
            'please ensure you typed it correctly and try again."}'
        )


async def test_a_user_whom_no_plugin_knows_but_who_earned_points_is_found(park: Park) -> None:
    user = unique_id()
    await park.service.record_shifts([shift_logged(user, 3)])
    profile = await park.profile(id=user)
    assert (profile["points"], profile["username"], profile["rank"]) == (3, str(user), "Guest")


async def test_a_username_matches_in_any_case_and_is_answered_in_its_true_case(park: Park) -> None:
    person = await park.person()
    profile = await park.profile(username=person.username.upper())
    assert (profile["id"], profile["username"]) == (person.id, person.username)


async def test_a_discord_id_of_any_size_leads_to_the_person(park: Park) -> None:
    person = await park.person(discord=2**63 - 1)
    assert (await park.profile(discord=2**63 - 1))["id"] == person.id


async def test_certifications_are_listed_in_the_order_of_the_configuration(park: Park) -> None:
    person = await park.person()
    await park.service.record_certifications(
        [granted(person.id, code, 1) for code in ("rnrc", "char", "mtp")] + [granted(person.id, "gone", 1)]
    )
    assert (await park.profile(id=person.id))["certifications"] == ["char", "mtp", "rnrc"]
    assert (await park.connect(person.id))["certifications"] == "char,mtp,rnrc"


@pytest.mark.parametrize(
    ("rank", "clearance"),
    [
        ("Guest", 0),
        ("University Student", 0),
        ("Cast Member", 1),
        ("Senior Cast Member", 2),
        ("Manager", 3),
        ("Executive", 3),
    ],
)
async def test_clearance_is_the_highest_that_the_rank_reaches(park: Park, rank: str, clearance: int) -> None:
    person = await park.person(rank)
    assert await park.connect(person.id) == {"certifications": "", "auth": True, "clearance": clearance}
    assert (await park.connect(person.id, place=1003))["auth"] is (clearance >= 2)


async def test_a_training_server_shows_every_certification_and_admits_trainees_and_cast(park: Park) -> None:
    for rank, admitted in (("Guest", False), ("University Student", True), ("Cast Member", True)):
        answer = await park.connect((await park.person(rank)).id, training="TRUE")
        assert (answer["certifications"], answer["auth"]) == ("char,tot,mtp,btmr,rnrc", admitted)


async def test_an_import_is_visible_at_once_also_where_there_is_an_account(park: Park) -> None:
    person = await park.person("Cast Member")
    await park.service.record_shifts([shift_logged(person.id, 1)])
    assert (await park.connect(person.id))["clearance"] == 1
    changed = LocalPerson(id=person.id, username=f"Renamed_{person.id}", rank="40")
    await import_people(park.database, park.group, [changed])
    assert (await park.connect(person.id))["clearance"] == 3
    profile = await park.profile(username=f"renamed_{person.id}")
    assert (profile["points"], profile["rankid"]) == (1, 40)
    events = await park.database["outbox"].find({"subject": "callboard.accounts.rank_changed.v1"}).to_list()
    assert any(f'"user":{person.id},'.encode() in event["payload"] for event in events)


async def test_an_import_changes_a_name_that_only_plugins_without_names_come_before(park: Park) -> None:
    person = await park.person()
    await park.service.set_rank(person.id, 20)
    assert (await park.profile(id=person.id))["username"] == person.username
    plugins = park.group.plugins.model_copy(update={"identity": ("bloxlink", "local")})
    linked = park.group.model_copy(update={"plugins": plugins})
    changed = LocalPerson(id=person.id, username=f"Renamed_{person.id}", rank="20")
    await import_people(park.database, linked, [changed])
    assert (await park.profile(id=person.id))["username"] == changed.username


async def test_an_import_changes_no_rank_and_no_name_that_others_tell(park: Park) -> None:
    person = await park.person("Cast Member")
    await park.service.set_rank(person.id, 20)
    before = await park.database["accounts"].find_one({"id": person.id})
    assert before is not None
    told = await park.database["outbox"].count_documents({})
    plugins = park.group.plugins.model_copy(update={"identity": ("roblox", "local"), "ranking": "roblox"})
    elsewhere = park.group.model_copy(update={"plugins": plugins})
    changed = LocalPerson(id=person.id, username=f"Renamed_{person.id}", rank="40")
    await import_people(park.database, elsewhere, [changed])
    assert await park.database["accounts"].find_one({"id": person.id}) == before
    assert await park.database["outbox"].count_documents({}) == told
    imported = await park.database["people"].find_one({"_id": person.id})
    assert imported is not None
    assert (imported["username"], imported["rankid"]) == (changed.username, 40)


async def test_an_import_with_a_fault_changes_nobody(park: Park) -> None:
    known, other = await park.person(), unique_id()
    twin = LocalPerson(id=unique_id(), username=known.username.upper())
    with pytest.raises(ImportRefused, match=f"username: the person with the id {known.id} has it"):
        await import_people(park.database, park.group, [LocalPerson(id=other, username="Innocent"), twin])
    with pytest.raises(ConfigurationError, match="There is no rank"):
        await import_people(park.database, park.group, [LocalPerson(id=other, username="I", rank="King")])
    assert (await park.client.get("/profile", params={"id": other})).status_code == 404


async def test_a_rank_that_is_set_is_visible_at_once_and_told_once(park: Park) -> None:
    person = await park.person()
    wish = {"user": person.id, "rankid": 10}
    for _ in range(2):
        answer = await park.client.post("/internal/rank", json=wish)
        assert answer.json() == {"id": person.id, "username": person.username, "rankid": 10}
    assert (await park.profile(id=person.id))["rank"] == "University Student"
    events = await park.database["outbox"].find({"subject": "callboard.accounts.rank_changed.v1"}).to_list()
    assert sum(f'"user":{person.id},'.encode() in event["payload"] for event in events) == 1


async def test_a_rank_that_cannot_be_set_is_refused(park: Park) -> None:
    person = await park.person()
    for wish in ({"user": person.id, "rankid": 11}, {"user": unique_id(), "rankid": 10}):
        assert (await park.client.post("/internal/rank", json=wish)).status_code == 409


async def test_a_certification_is_kept_by_its_version_in_any_order_and_however_often(park: Park) -> None:
    person = await park.person()
    events: list[CertificationGranted | CertificationRevoked] = [
        revoked(person.id, "tot", 2),
        granted(person.id, "tot", 1),
        granted(person.id, "char", 1),
    ]
    done, unchanged = Handled.DONE, Handled.UNCHANGED
    assert await park.service.record_certifications(events) == [done, unchanged, done]
    for event in [*events, *reversed(events)]:
        assert await park.service.record_certifications([event]) == [unchanged]
    assert (await park.profile(id=person.id))["certifications"] == ["char"]


async def test_players_who_join_at_once_share_round_trips_and_get_their_own_answers(park: Park) -> None:
    people = [await park.person(rank) for rank in ("Guest", "Cast Member", "Manager")]
    answers = await asyncio.gather(*(park.connect(person.id) for person in people * 10))
    assert [answer["clearance"] for answer in answers] == [0, 1, 3] * 10


async def test_ranks_that_are_kept_here_have_no_age(park: Park) -> None:
    person = await park.person("Cast Member")
    for _ in range(2):
        for path, query in (
            ("/connect", {"place": "1001", "training": "false"}),
            ("/profile", {}),
        ):
            answer = await park.client.get(path, params={"id": person.id, **query})
            assert answer.status_code == 200
            assert "Callboard-Rank-Age" not in answer.headers
        await park.service.record_shifts([shift_logged(person.id, 1)])


async def test_a_fresh_rank_that_is_kept_here_is_the_stored_one(park: Park) -> None:
    person = await park.person("Cast Member")
    answer = await park.client.get("/internal/member", params={"id": person.id, "fresh": "true"})
    assert answer.json() == {"id": person.id, "username": person.username, "rankid": 20}


async def test_a_username_that_the_local_plugin_knows_otherwise_is_read_again_after_a_day(park: Park) -> None:
    person = await park.person()
    await park.service.record_shifts([shift_logged(person.id, 1)])
    await park.profile(id=person.id)
    changed = {"username": "Old", "username_key": "old", "username_read_at": datetime(2026, 1, 1, tzinfo=UTC)}
    await park.database["accounts"].update_one({"id": person.id}, {"$set": changed})

    async def is_renamed() -> bool:
        return bool((await park.profile(id=person.id))["username"] == person.username)

    await wait_until(is_renamed)


async def test_a_start_waits_for_a_mongodb_that_is_slow_to_take_the_configured_people(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CALLBOARD_PATIENCE", "1")
    group = load_group(ROOT / "callboard.toml")
    options = {"local": {"people": [{"id": 1, "username": "First", "rank": "Guest"}]}}
    group = group.model_copy(update={"plugins": group.plugins.model_copy(update={"options": options})})
    async with machine() as here:
        client, database = connect(here.settings(), "accounts")
        async with client:
            here.freeze("mongod")
            starting = asyncio.create_task(when_there(partial(begin, database, group), StorageLimits()))
            await wait_until(lambda: "the start waits for MongoDB" in caplog.text)
            here.thaw("mongod")
            await starting
            (person,) = await People(database).by_ids([1])
    assert person is not None and person.username == "First"


async def test_the_actor_is_the_roblox_account_wherever_the_link_is_known(park: Park) -> None:
    person = await park.person()
    discord, stranger = unique_id(), unique_id()
    moderator = await park.person(discord=discord)
    for given, actor in (
        (f"discord:{discord}", {"by": f"roblox:{moderator.id}", "via": f"discord:{discord}"}),
        (str(discord), {"by": f"roblox:{moderator.id}", "via": f"discord:{discord}"}),
        (f"discord:{stranger}", {"by": f"discord:{stranger}"}),
        (f"roblox:{moderator.id}", {"by": f"roblox:{moderator.id}"}),
    ):
        answer = await park.client.get("/internal/member", params={"id": person.id, "moderator": given})
        assert (answer.status_code, answer.json()["actor"]) == (200, actor)
        assert answer.json()["id"] == person.id
    answer = await park.client.get("/internal/member", params={"id": person.id})
    assert "actor" not in answer.json()
    answer = await park.client.get("/internal/member", params={"id": person.id, "moderator": "Boss"})
    assert answer.status_code == 400
    answer = await park.client.get("/internal/member", params={"id": unique_id(), "moderator": str(discord)})
    assert answer.status_code == 404
