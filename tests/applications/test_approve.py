"""POST /application/approve: who becomes a trainee, and what is answered."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from common.actors import Actor
from common.events import ApplicationApproved, new_id, parse_event
from tests.applications.builders import (
    CAST,
    FIRST,
    GUEST,
    MANAGER,
    SECOND,
    TRAINEE,
    Park,
    begin_approval,
    let_lease_run_out,
    park,
)
from tests.support import Servers, unique_id, wait_until

RANKED = '{"status":"success","message":"successfully ranked user"}'
ALREADY = '{"status":"error","message":"user is already trainee/cast"}'
NOT_RANKED = '{"status":"error","message":"couldn\'t rank user"}'
NO_SUCH_USER = (
    '{"status":"error","message":"couldn\'t find user","discord":"We couldn\'t find the requested user, '
    'please ensure you typed it correctly and try again."}'
)


async def test_an_approved_applicant_is_a_trainee(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.upload(user)
        answer = await here.approve(user, FIRST)
        (record,) = await here.records(user)
        (payload,) = await here.events(user, "application_approved")
    assert (answer.status_code, answer.text) == (200, RANKED)
    assert here.accounts.ranks[user] == TRAINEE
    assert (record["status"], record["moderator"]) == ("approved", FIRST)
    assert record["decided_at"] >= record["submitted_at"]
    event = parse_event(ApplicationApproved, payload)
    assert isinstance(event, ApplicationApproved)
    assert event.application == record["_id"]
    assert (event.user, event.username) == (user, f"User{user}")
    assert (event.rank, event.moderator) == ("University Student", FIRST)


async def test_approval_needs_no_upload(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        assert (await here.approve(user)).text == RANKED
        (record,) = await here.records(user)
    assert record["status"] == "approved"
    assert "url" not in record
    assert here.accounts.ranks[user] == TRAINEE


async def test_the_latest_of_several_applications_is_the_approved_one(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        for _ in range(3):
            latest = (await here.upload(user)).json()["url"]
        await here.approve(user)
        records = await here.records(user)
    assert [record["status"] for record in records] == ["submitted", "submitted", "approved"]
    assert records[-1]["url"] == latest


@pytest.mark.parametrize("rankid", [TRAINEE, CAST, 50])
async def test_a_trainee_or_cast_member_is_not_approved(servers: Servers, rankid: int) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user, rankid)
        await here.upload(user)
        answer = await here.approve(user)
        (record,) = await here.records(user)
        assert await here.events(user, "application_approved") == []
    assert (answer.status_code, answer.text) == (400, ALREADY)
    assert record["status"] == "submitted"
    assert here.accounts.ranked == []


async def test_an_unknown_user_is_not_found(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        answer = await here.approve(user)
        assert await here.records(user) == []
    assert (answer.status_code, answer.text) == (404, NO_SUCH_USER)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"moderator": "4"}, "id is missing"),
        ({"id": "", "moderator": "4"}, "id is missing"),
        ({"id": "0", "moderator": "4"}, "id must be a whole number from 1 to 9223372036854775807"),
        ({"id": "1"}, "moderator is missing"),
        ({"id": ["1", "1"], "moderator": "4"}, "id is given more than once"),
    ],
)
async def test_a_wrong_parameter_is_named(shared_park: Park, params: dict[str, str], why: str) -> None:
    answer = await shared_park.client.post("/application/approve", params=params)
    assert answer.status_code == 400
    assert answer.text == f'{{"status":"error","message":"invalid query: {why}"}}'


async def test_the_largest_id_can_be_approved(servers: Servers) -> None:
    user = 2**63 - 1
    async with park(servers) as here:
        here.accounts.knows(user)
        assert (await here.approve(user)).text == RANKED
    assert here.accounts.ranked == [user]


async def test_an_application_whose_rank_was_refused_stays_open_and_says_why(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        await here.upload(user)
        (before,) = await here.records(user)
        answer = await here.approve(user)
        (record,) = await here.records(user)
        assert await here.events(user, "application_approved") == []
    assert (answer.status_code, answer.text) == (502, NOT_RANKED)
    refusal = record.pop("refusal")
    assert record == before
    assert refusal["reason"] == "no"
    assert refusal["at"] >= record["submitted_at"]


async def test_a_refused_application_is_the_one_that_is_approved_once_the_applicant_has_joined(
    servers: Servers,
) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        await here.upload(user)
        (before,) = await here.records(user)
        for _ in range(2):
            assert (await here.approve(user, FIRST)).text == NOT_RANKED
        here.accounts.fails_with = None
        assert (await here.approve(user, SECOND)).text == RANKED
        (record,) = await here.records(user)
        (event,) = [
            parse_event(ApplicationApproved, one) for one in await here.events(user, "application_approved")
        ]
    assert isinstance(event, ApplicationApproved)
    assert (record["_id"], record["url"]) == (before["_id"], before["url"])
    assert (record["status"], record["moderator"]) == ("approved", SECOND)
    assert (event.application, event.moderator) == (before["_id"], SECOND)


async def test_a_refused_approval_without_an_application_leaves_no_record(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        assert (await here.approve(user)).text == NOT_RANKED
        assert await here.records(user) == []
        here.accounts.fails_with = None
        assert (await here.approve(user)).text == RANKED
        assert [record["status"] for record in await here.records(user)] == ["approved"]


@pytest.mark.parametrize("newer_is_open", [False, True])
async def test_what_an_older_version_left_failed_is_approved_unless_there_is_a_later_application(
    servers: Servers, newer_is_open: bool
) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.upload(user)
        failed = {"status": "failed", "moderator": FIRST, "decided_at": datetime.now(UTC)}
        await here.database["applications"].update_one({"user": user}, {"$set": failed})
        # What an approval without an application left is none.
        await here.database["applications"].insert_one({"_id": new_id(), "user": user, **failed})
        if newer_is_open:
            await here.upload(user)
        assert (await here.approve(user, SECOND)).text == RANKED
        records = [
            (one["status"], one["moderator"]) for one in await here.records(user) if "moderator" in one
        ]
    first = ("failed", FIRST) if newer_is_open else ("approved", SECOND)
    assert records == [first, ("failed", FIRST)] + [("approved", SECOND)] * newer_is_open


@pytest.mark.parametrize(
    ("given", "is_linked", "by", "via"),
    [
        ("400000000000000004", True, "roblox:4", "discord:400000000000000004"),
        ("400000000000000004", False, "discord:400000000000000004", None),
        ("roblox:4", False, "roblox:4", None),
        ("roblox:04", False, "roblox:4", None),
    ],
)
async def test_who_approved_is_named_by_the_roblox_account_where_it_is_known(
    servers: Servers, given: str, is_linked: bool, by: str, via: str | None
) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.links = {"discord:400000000000000004": "roblox:4"} if is_linked else {}
        assert (await here.approve(user, given)).text == RANKED
        (record,) = await here.records(user)
        (payload,) = await here.events(user, "application_approved")
    event = parse_event(ApplicationApproved, payload)
    assert isinstance(event, ApplicationApproved)
    assert (record["moderator"], record.get("moderator_via")) == (by, via)
    assert (event.moderator, event.actor) == (by, Actor(by=by, via=via))


async def test_beside_an_accounts_of_an_older_version_the_moderator_is_who_the_caller_named(
    servers: Servers,
) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.resolves = False
        assert (await here.approve(user, "4")).text == RANKED
        (record,) = await here.records(user)
    assert record["moderator"] == "discord:4"


async def test_an_approval_that_an_older_version_began_for_a_name_keeps_the_name(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await begin_approval(here.database, user, "ParkManager")
        await let_lease_run_out(here.database, user)
        assert (await here.approve(user)).text == RANKED
        (payload,) = await here.events(user, "application_approved")
    event = parse_event(ApplicationApproved, payload)
    assert isinstance(event, ApplicationApproved)
    assert (event.moderator, event.actor) == ("ParkManager", None)


@pytest.mark.parametrize("moderator", ["ParkManager", "discord:4", "roblox:", "roblox:0", "0", "-1", "4 "])
async def test_a_moderator_that_is_no_id_is_refused(shared_park: Park, moderator: str) -> None:
    answer = await shared_park.approve(unique_id(), moderator)
    assert answer.status_code == 400
    assert answer.text == (
        '{"status":"error","message":"invalid query: moderator must be a Discord id, or roblox: and a Roblox id"}'
    )


async def test_a_record_with_fields_of_a_newer_version_is_approved(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.upload(user)
        newer = {"claim": {"by": "roblox:4"}, "refusal": {"at": datetime.now(UTC), "reason": "no", "code": 4}}
        await here.database["applications"].update_one({"user": user}, {"$set": newer})
        assert (await here.approve(user)).text == RANKED
        (record,) = await here.records(user)
    assert (record["status"], record["claim"]) == ("approved", {"by": "roblox:4"})


async def test_what_a_refusal_says_can_be_done_is_passed_on(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        here.accounts.discord = "Ask them to join the group."
        answer = await here.approve(user)
    assert answer.status_code == 502
    assert answer.text == (
        '{"status":"error","message":"couldn\'t rank user","discord":"Ask them to join the group."}'
    )


async def test_a_manager_whose_stored_rank_is_old_is_not_demoted_by_an_approval(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user, MANAGER)
        here.accounts.stored[user] = GUEST
        answer = await here.approve(user)
        assert await here.records(user) == []
    assert (answer.status_code, answer.text) == (400, ALREADY)
    assert here.accounts.ranks[user] == MANAGER
    assert here.accounts.ranked == []


async def test_while_the_rank_cannot_be_read_nothing_is_begun_and_nobody_waits_long(servers: Servers) -> None:
    user = unique_id()
    async with park(servers, patience=1) as here:
        here.accounts.knows(user)
        here.accounts.may_read.clear()

        async def is_told_soon() -> bool:
            began = time.monotonic()
            answer = await here.approve(user)
            assert (answer.status_code, answer.text) == (502, NOT_RANKED)
            return time.monotonic() - began < 5

        await wait_until(is_told_soon, 60)  # a machine that pauses makes one try longer, not all
        assert await here.records(user) == []
        here.accounts.may_read.set()
        assert (await here.approve(user)).text == RANKED


@pytest.mark.parametrize("status", [401, 429, 500, 502, 503, 504])
async def test_while_ranks_cannot_be_set_the_approval_waits_for_the_next_call(
    servers: Servers, status: int
) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.upload(user)
        here.accounts.fails_with = status
        answer = await here.approve(user, FIRST)
        (record,) = await here.records(user)
        assert (answer.status_code, answer.text) == (502, NOT_RANKED)
        assert record["status"] == "approving"
        here.accounts.fails_with = None
        assert (await here.approve(user, SECOND)).text == RANKED
        (record,) = await here.records(user)
        assert (record["status"], record["moderator"]) == ("approved", FIRST)
        assert len(await here.events(user, "application_approved")) == 1


async def test_while_accounts_is_away_nothing_is_begun(servers: Servers) -> None:
    user = unique_id()
    async with park(servers, accounts_url="http://127.0.0.1:9", in_one_process=False) as here:
        answer = await here.approve(user)
        assert await here.records(user) == []
    assert (answer.status_code, answer.text) == (502, NOT_RANKED)


async def test_two_approvals_at_once_rank_once(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.upload(user)
        answers = await asyncio.gather(*(here.approve(user, f"roblox:{n + 1}") for n in range(8)))
        assert sorted(answer.text for answer in answers) == sorted([RANKED] + [ALREADY] * 7)
        (record,) = await here.records(user)
        (payload,) = await here.events(user, "application_approved")
    assert record["status"] == "approved"
    assert here.accounts.ranked == [user]
    assert f'"moderator":"{record["moderator"]}"'.encode() in payload


async def test_two_approvals_by_different_processes_rank_once(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here, park(servers, here.accounts) as there:
        here.accounts.knows(user)
        answers = await asyncio.gather(*(one.approve(user) for one in (here, there) * 4))
        assert sorted(answer.text for answer in answers) == sorted([RANKED] + [ALREADY] * 7)
        assert len(await here.events(user, "application_approved")) == 1
    assert here.accounts.ranked == [user]


async def test_a_second_approval_waits_for_the_first_before_it_judges(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.may_answer.clear()
        first = asyncio.create_task(here.approve(user))
        await wait_until(lambda: here.accounts.ranks[user] == TRAINEE)
        second = asyncio.create_task(here.approve(user))
        done, _ = await asyncio.wait([first, second], timeout=0.3)
        assert not done
        here.accounts.may_answer.set()
        assert (await first).text == RANKED
        assert (await second).text == ALREADY
    assert here.accounts.ranked == [user]


async def test_one_who_waits_for_an_approval_that_fails_tries_anew(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        here.accounts.fails_with = 409
        here.accounts.may_answer.clear()
        first = asyncio.create_task(here.approve(user))
        await wait_until(lambda: here.accounts.ranked == [user])
        second = asyncio.create_task(here.approve(user))
        here.accounts.may_answer.set()
        assert (await first).text == NOT_RANKED
        here.accounts.fails_with = None
        assert (await second).text == RANKED


async def test_approvals_of_different_people_do_not_wait_for_each_other(servers: Servers) -> None:
    slow, quick = unique_id(), unique_id()
    async with park(servers) as here:
        here.accounts.knows(slow)
        here.accounts.knows(quick)
        here.accounts.may_answer.clear()
        first = asyncio.create_task(here.approve(slow))
        second = asyncio.create_task(here.approve(quick))
        await wait_until(lambda: sorted(here.accounts.ranked) == sorted([slow, quick]))
        here.accounts.may_answer.set()
        assert [(await task).text for task in (first, second)] == [RANKED, RANKED]


async def test_one_who_left_the_trainees_can_be_approved_again(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.approve(user)
        here.accounts.knows(user, GUEST)
        assert (await here.approve(user)).text == RANKED
        assert len(await here.events(user, "application_approved")) == 2
