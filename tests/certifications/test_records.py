"""What is kept of a change, and what the other services are told of it."""

import json
from datetime import UTC, datetime

import nats
import pytest

from common.events import CertificationGranted, CertificationRevoked, parse_event
from tests.certifications.builders import TRAINEE, Member, Park, refusing_events
from tests.certifications.builders import park as open_park
from tests.support import Servers, unique_id


async def test_the_version_rises_by_one_at_each_change(park: Park) -> None:
    member = park.accounts.member()
    for _ in range(3):
        await park.grant(member)
        await park.grant(member)  # refused: changes nothing
        await park.revoke(member)
        await park.revoke(member)
    versions = [json.loads(payload)["version"] for _, payload in await park.events(member)]
    assert versions == [1, 2, 3, 4, 5, 6]
    (record,) = await park.records(member)
    assert record["version"] == 6


async def test_versions_of_different_certifications_rise_apart(park: Park) -> None:
    member = park.accounts.member()
    await park.grant(member, "tot")
    await park.revoke(member, "tot")
    await park.grant(member, "char")
    assert [(record["code"], record["version"]) for record in await park.records(member)] == [
        ("char", 1),
        ("tot", 2),
    ]


async def test_the_record_tells_who_granted_and_revoked_and_when(park: Park) -> None:
    member = park.accounts.member()
    park.accounts.links["discord:401"] = 4
    before = datetime.now(UTC).replace(microsecond=0)
    await park.grant(member, moderator="401")
    await park.revoke(member, moderator="402")
    (record,) = await park.records(member)
    assert (record["granted_by"], record["granted_via"]) == ("roblox:4", "discord:401")
    assert (record["revoked_by"], record["revoked_via"], record["held"]) == ("discord:402", None, False)
    assert before <= record["granted_at"] <= record["revoked_at"]
    await park.grant(member, moderator="roblox:5")
    (record,) = await park.records(member)
    assert (record["granted_by"], record["granted_via"]) == ("roblox:5", None)
    assert (record["revoked_by"], record["held"]) == (None, True)


async def test_a_change_has_its_event(park: Park) -> None:
    member = park.accounts.member()
    park.accounts.links["discord:401"] = 4
    await park.grant(member, moderator="401")
    await park.revoke(member, moderator="402")
    (first_subject, first), (second_subject, second) = await park.events(member)
    assert first_subject == CertificationGranted.SUBJECT
    assert second_subject == CertificationRevoked.SUBJECT
    granted, revoked = parse_event(CertificationGranted, first), parse_event(CertificationRevoked, second)
    told = {"user": member.id, "username": member.username, "certification": "tot"}
    both = {"id", "occurred_at"}
    by, unlinked = {"by": "roblox:4", "via": "discord:401"}, {"by": "discord:402", "via": None}
    assert granted.model_dump(exclude=both) == told | {"version": 1, "moderator": "roblox:4", "actor": by}
    assert revoked.model_dump(exclude=both) == told | {
        "version": 2,
        "moderator": "discord:402",
        "actor": unlinked,
    }


async def test_who_decided_costs_no_further_call_and_is_kept_where_an_older_accounts_answers(
    park: Park,
) -> None:
    member = park.accounts.member()
    park.accounts.asked.clear()
    park.accounts.is_old = True
    try:
        assert (await park.grant(member, moderator="403")).status_code == 200
    finally:
        park.accounts.is_old = False
    assert park.accounts.asked == [{"username": member.username, "moderator": "discord:403"}]
    assert (await park.records(member))[0]["granted_by"] == "discord:403"


async def test_a_record_of_an_older_version_can_be_revoked(park: Park) -> None:
    member = park.accounts.member()
    old = {"user": member.id, "code": "tot", "held": True, "version": 1, "granted_by": "Anna"}
    await park.database["certifications"].insert_one(old)
    assert (await park.revoke(member)).status_code == 200
    (record,) = await park.records(member)
    assert (record["granted_by"], record["version"]) == ("Anna", 2)


async def test_an_event_arrives_on_nats_under_its_own_id(servers: Servers, park: Park) -> None:
    member = park.accounts.member()
    async with await nats.connect(servers.nats_url) as bus:
        heard = await bus.subscribe("callboard.certifications.>")
        await bus.flush()
        await park.grant(member)
        while f'"user":{member.id},'.encode() not in (message := await heard.next_msg(timeout=60)).data:
            pass
    assert message.subject == CertificationGranted.SUBJECT
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == parse_event(CertificationGranted, message.data).id


@pytest.mark.parametrize("change", ["grant", "revoke"])
async def test_when_the_event_cannot_be_stored_nothing_is_changed(park: Park, change: str) -> None:
    member = park.accounts.member()
    if change == "revoke":
        await park.grant(member)
    before = await park.records(member)
    async with refusing_events(park.database):
        answer = await getattr(park, change)(member)
    assert answer.status_code == 500
    assert json.loads(answer.text)["message"] == "internal error"
    assert await park.records(member) == before
    assert (await getattr(park, change)(member)).status_code == 200


@pytest.mark.parametrize("change", ["grant", "revoke"])
async def test_while_accounts_is_away_nothing_is_changed(servers: Servers, change: str) -> None:
    member = Member(unique_id(), "Roblox", TRAINEE)
    async with open_park(servers, accounts_url="http://127.0.0.1:9") as here:
        stored = await here.database["certifications"].count_documents({})
        answer = await getattr(here, change)(member)
        assert await here.database["certifications"].count_documents({}) == stored
    assert answer.status_code == 503
    assert answer.text == '{"status":"error","message":"accounts is unavailable, try again"}'
    assert answer.headers["retry-after"] == "1"


async def told(park: Park, member: Member) -> dict[str, tuple[bool, int, datetime]]:
    """What other services are told by code: whether it is held, the version, and since when."""
    held = json.loads(await park.held(member))["certifications"]
    return {
        code: (one["held"], one["version"], datetime.fromisoformat(one["changed_at"]))
        for code, one in held.items()
    }


async def test_other_services_are_told_what_is_held_and_what_was_revoked(park: Park) -> None:
    member = park.accounts.member()
    assert await park.held(member) == '{"certifications":{}}'
    await park.grant(member, "tot")
    (granted,) = await park.records(member)
    assert await told(park, member) == {"tot": (True, 1, granted["granted_at"])}
    await park.revoke(member, "tot")
    await park.grant(member, "char")
    char, tot = await park.records(member)
    assert await told(park, member) == {
        "tot": (False, 2, tot["revoked_at"]),
        "char": (True, 1, char["granted_at"]),
    }
    assert granted["granted_at"] <= tot["revoked_at"] <= char["granted_at"]


async def test_the_largest_id_is_kept_as_it_is(park: Park) -> None:
    member = park.accounts.member(user=2**63 - 1)
    await park.grant(member)
    (record,) = await park.records(member)
    assert record["user"] == 2**63 - 1
    assert await told(park, member) == {"tot": (True, 1, record["granted_at"])}


async def test_what_others_hold_is_told_to_services_only(park: Park) -> None:
    answer = await park.client.get(
        "/internal/certifications", params={"user": 1}, headers={"x-callboard-token": "guessed"}
    )
    assert (answer.status_code, answer.text) == (401, '{"status":"error","message":"invalid token"}')
