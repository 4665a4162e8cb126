"""Ranks that are kept elsewhere: served from what is stored, however slow or down their provider is."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from accounts.errors import RankRefused
from accounts.models import Person
from accounts.ranks import Ranks
from common.group import load_group
from common.outbox import Outbox
from common.outgoing.providers import Urgency
from tests.accounts.builders import (
    CAST,
    GUEST,
    MANAGER,
    TRAINEE,
    Company,
    OutsidePark,
    outside_park,
    shift_logged,
)
from tests.support import ROOT, Servers, unique_id, wait_until

AGE = "Callboard-Rank-Age"


def age_strangers(monkeypatch: pytest.MonkeyPatch, park: OutsidePark, hours: float) -> None:
    """As if whoever was asked for had been asked for so long ago."""
    moment = datetime.now(UTC) - timedelta(hours=hours)
    ranks = park.service._ranks
    monkeypatch.setattr(ranks, "_strangers", dict.fromkeys(ranks._strangers, moment))


@pytest.fixture
async def hurried(servers: Servers) -> AsyncIterator[OutsidePark]:
    """A replica whose provider has no list of members, so that nobody is known from one."""
    async with outside_park(servers, Company()) as here:
        yield here


@pytest.fixture
async def park(hurried: OutsidePark, monkeypatch: pytest.MonkeyPatch) -> OutsidePark:
    """The same, which waits for its provider for longer than a slow machine needs to answer."""
    for name in ("_STRANGER_SECONDS", "_BACKGROUND_SECONDS", "_FRESH_SECONDS", "_SET_SECONDS"):
        monkeypatch.setattr(f"accounts.ranks.{name}", 60.0)
    return hurried


# ------------------------------------------------------------------------------- what is stored is served


async def test_a_stored_rank_is_served_while_the_provider_is_down_and_tells_its_age(
    park: OutsidePark,
) -> None:
    user = unique_id()
    await park.store(user, MANAGER, hours=2)
    park.company.is_down = True
    park.company.names[user] = "Manager"
    answer = await park.connect(user)
    assert answer.text == '{"certifications":"","auth":true,"clearance":3}'
    assert 7200 <= int(answer.headers[AGE]) < 7300
    assert (await park.member(user)).status_code == 503  # no name of theirs is stored
    await park.database["accounts"].update_one({"id": user}, {"$set": {"username": "Manager"}})
    profile = await park.profile(user)
    assert (profile.json()["rank"], profile.json()["username"]) == ("Manager", "Manager")
    assert 7200 <= int(profile.headers[AGE]) < 7300
    assert (await park.member(user)).json()["rankid"] == MANAGER


async def test_a_rank_that_is_young_is_not_asked_for(park: OutsidePark) -> None:
    user = unique_id()
    await park.store(user, CAST, minutes=14)
    assert await park.clearance(user) == 1
    assert park.company.asked == []


async def test_a_rank_that_is_too_old_to_trust_opens_nothing_but_is_shown(park: OutsidePark) -> None:
    trusted, old = unique_id(), unique_id()
    await park.store(trusted, MANAGER, days=6.9)
    await park.store(old, MANAGER, days=7.1)
    park.company.is_down = True
    for user, clearance, rankid in ((trusted, 3, MANAGER), (old, 0, GUEST)):
        await park.database["accounts"].update_one({"id": user}, {"$set": {"username": "Boss"}})
        answer = (await park.connect(user)).json()
        assert (answer["clearance"], answer["auth"]) == (clearance, clearance == 3)
        assert (await park.member(user)).json()["rankid"] == rankid
        profile = (await park.profile(user)).json()
        assert (profile["rank"], profile["cast"]) == ("Manager", True)


async def test_a_rank_of_before_ages_were_stored_is_trusted_and_read_again(park: OutsidePark) -> None:
    user = unique_id()
    await park.store(user, CAST)
    park.company.ranks[user] = CAST
    answer = await park.connect(user)
    assert answer.json()["clearance"] == 1
    assert AGE not in answer.headers

    async def tells_its_age() -> bool:
        return AGE in (await park.connect(user)).headers

    await wait_until(tells_its_age)
    assert await park.rank_changes(user) == []


async def test_an_old_rank_is_read_again_once_however_many_ask_and_told_once_if_it_changed(
    park: OutsidePark,
) -> None:
    user = unique_id()
    await park.store(user, CAST, minutes=16)
    park.company.ranks[user] = MANAGER
    park.company.may_answer.clear()
    answers = await asyncio.gather(*(park.clearance(user) for _ in range(20)))
    assert answers == [1] * 20
    await wait_until(lambda: park.company.asked == [user])
    park.company.may_answer.set()

    async def is_manager() -> bool:
        return await park.clearance(user) == 3

    await wait_until(is_manager)
    assert park.company.asked == [user]
    assert await park.rank_changes(user) == [MANAGER]


async def test_two_replicas_that_find_the_same_change_tell_it_once(servers: Servers) -> None:
    user = unique_id()
    company = Company({user: MANAGER})
    async with outside_park(servers, company) as here, outside_park(servers, company) as there:
        await here.store(user, CAST, minutes=16)
        company.may_answer.clear()
        await asyncio.gather(*(one.clearance(user) for one in (here, there) * 5))
        await wait_until(lambda: company.asked == [user, user])
        company.may_answer.set()

        async def is_manager() -> bool:
            return await here.clearance(user) == 3

        await wait_until(is_manager)
        assert await here.rank_changes(user) == [MANAGER]


async def test_one_who_left_the_group_has_the_lowest_rank(park: OutsidePark) -> None:
    user = unique_id()
    await park.store(user, CAST, minutes=16)
    await park.connect(user)

    async def is_guest() -> bool:
        return await park.clearance(user) == 0

    await wait_until(is_guest)
    assert await park.rank_changes(user) == [GUEST]


async def test_while_the_provider_is_down_reading_again_waits_and_goes_on_after(park: OutsidePark) -> None:
    user = unique_id()
    await park.store(user, CAST, minutes=16)
    park.company.ranks[user] = MANAGER
    park.company.is_down = True
    assert await park.clearance(user) == 1
    await wait_until(lambda: user in park.company.asked)
    park.company.is_down = False

    async def is_manager() -> bool:
        return await park.clearance(user) == 3

    await wait_until(is_manager)


async def test_what_was_set_after_a_read_began_is_not_undone_by_it(park: OutsidePark) -> None:
    user = unique_id()
    park.company.names[user] = "Applicant"
    await park.store(user, GUEST, minutes=16)
    began = datetime.now(UTC)
    answer = await park.client.post("/internal/rank", json={"user": user, "rankid": TRAINEE})
    assert answer.json()["rankid"] == TRAINEE
    ranks = Ranks(load_group(ROOT / "callboard.toml"), park.database, Outbox(park.database), [], park.company)
    assert await ranks.record({user: GUEST}, began) == 0
    assert await ranks.record({user: CAST}, datetime.now(UTC)) == 1
    assert await park.rank_changes(user) == [TRAINEE, CAST]


async def test_what_was_just_set_is_not_undone_by_a_stale_copy(park: OutsidePark) -> None:
    user = unique_id()
    park.company.names[user] = "Applicant"
    await park.store(user, GUEST, minutes=16)
    for rankid in (TRAINEE, CAST):
        answer = await park.client.post("/internal/rank", json={"user": user, "rankid": rankid})
        assert answer.json()["rankid"] == rankid
    ranks = Ranks(load_group(ROOT / "callboard.toml"), park.database, Outbox(park.database), [], park.company)
    for stale in (GUEST, TRAINEE):
        park.company.ranks[user] = stale
        assert await ranks.record({user: stale}, datetime.now(UTC)) == 0
        assert (await park.member(user, fresh="true")).json()["rankid"] == CAST
        assert await ranks.read_again(user, Urgency.BACKGROUND, 60) == (CAST, False)
    assert await park.rank_changes(user) == [TRAINEE, CAST]
    assert await ranks.record({user: MANAGER}, datetime.now(UTC)) == 1  # nobody had this rank before
    assert await ranks.record({user: CAST}, datetime.now(UTC)) == 1


async def test_a_rank_that_is_still_read_a_minute_after_another_was_set_is_believed(
    park: OutsidePark,
) -> None:
    user = unique_id()
    park.company.names[user] = "Applicant"
    await park.store(user, GUEST, minutes=16)
    await park.client.post("/internal/rank", json={"user": user, "rankid": TRAINEE})
    long_ago = datetime.now(UTC) - timedelta(seconds=61)
    await park.database["accounts"].update_one(
        {"id": user}, {"$set": {"rank_set_at": long_ago, "rank_read_at": long_ago}}
    )
    park.company.ranks[user] = GUEST
    assert (await park.member(user, fresh="true")).json()["rankid"] == GUEST
    assert await park.rank_changes(user) == [TRAINEE, GUEST]


async def test_a_rank_and_a_name_that_seem_to_be_read_in_the_future_are_read_again(park: OutsidePark) -> None:
    same, other = unique_id(), unique_id()
    park.company.ranks |= {same: CAST, other: MANAGER}
    for user in (same, other):
        await park.store(user, CAST, days=-365)
        park.company.names[user] = "Now"
        read = {"username": "Before", "username_read_at": datetime.now(UTC) + timedelta(days=365)}
        await park.database["accounts"].update_one({"id": user}, {"$set": read})
    assert await park.clearance(same) == 0  # as one that is too old to trust

    async def are_read() -> bool:
        profiles = [(await park.profile(user)) for user in (same, other)]
        return [
            (one.json()["rankid"], one.json()["username"], int(one.headers[AGE]) < 60) for one in profiles
        ] == [
            (CAST, "Now", True),
            (MANAGER, "Now", True),
        ]

    await wait_until(are_read)


# ---------------------------------------------------------------------------------- those who are unknown


async def test_an_unknown_player_waits_two_seconds_at_most_and_is_known_the_next_time(
    hurried: OutsidePark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.ranks._BACKGROUND_SECONDS", 60.0)
    company = hurried.company
    user = 0

    async def waits_two_seconds() -> bool:
        nonlocal user
        user = unique_id()
        company.ranks[user] = MANAGER
        company.may_answer.clear()
        company.asked.clear()
        began = time.monotonic()
        query = {"id": str(user), "place": "1003", "training": "false"}
        answers = await asyncio.gather(*(hurried.client.get("/connect", params=query) for _ in range(5)))
        seconds = time.monotonic() - began
        assert seconds > 1.9
        assert {answer.status_code for answer in answers} == {503}
        assert company.asked == [user]
        company.may_answer.set()  # whose answer comes late is stored all the same
        return seconds < 4

    await wait_until(waits_two_seconds, 60)  # a machine that pauses makes one try longer, not all

    async def is_stored() -> bool:
        return await hurried.account(user) is not None

    await wait_until(is_stored)
    assert await hurried.clearance(user) == 3
    assert company.asked == [user]
    assert await hurried.rank_changes(user) == [MANAGER]


async def test_a_player_of_whom_nothing_was_ever_learnt_is_503_while_the_provider_is_down(
    park: OutsidePark,
) -> None:
    user, worker = unique_id(), unique_id()
    await park.service.record_shifts([shift_logged(worker, 1)])  # an account, without a rank
    park.company.ranks[user] = MANAGER
    park.company.names |= {user: "Boss", worker: "Worker"}
    park.company.is_down = True
    for one in (user, worker):
        answer = await park.client.get("/connect", params={"id": one, "place": 1003, "training": "false"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json() == {"status": "error", "message": "ranking is unavailable, try again"}
    await park.database["accounts"].update_one({"id": worker}, {"$set": {"username": "Worker"}})
    for answer in (await park.profile(worker), await park.member(worker)):  # nor is there a rank to show
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    park.company.is_down = False
    assert await park.clearance(user) == 3
    assert (await park.profile(worker)).json()["rank"] == "Guest"


async def test_one_who_was_a_guest_is_a_guest_for_as_long_as_ranks_are_trusted(
    park: OutsidePark, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, other = unique_id(), unique_id()
    assert await park.clearance(user) == 0
    park.company.is_down = True
    for hours in (1, 24 * 6.9):
        age_strangers(monkeypatch, park, hours)
        answer = await park.connect(user)
        assert answer.json()["clearance"] == 0
        assert abs(int(answer.headers[AGE]) - hours * 3600) < 100
    age_strangers(monkeypatch, park, 24 * 7.1)
    for one in (user, other):
        answer = await park.client.get("/connect", params={"id": one, "place": 1003, "training": "false"})
        assert answer.status_code == 503


async def test_a_stranger_to_a_complete_list_is_a_guest_for_as_long_as_ranks_are_trusted(
    servers: Servers,
) -> None:
    member, stranger = unique_id(), unique_id()
    company = Company({member: CAST}, has_list=True)
    company.may_answer.clear()
    async with outside_park(servers, company) as park:
        company.may_answer.set()

        async def is_listed() -> bool:
            return await park.database["syncs"].find_one({"last": {"$exists": True}}) is not None

        await wait_until(is_listed)
        company.is_down = True
        for days, status in ((0.1, 200), (6.9, 200), (7.1, 503)):
            began_at = datetime.now(UTC) - timedelta(days=days)
            await park.database["syncs"].update_one({}, {"$set": {"last.began_at": began_at}})
            async with outside_park(
                servers, company, keep_syncs=True
            ) as restarted:  # which knows the list at once
                query = {"id": str(stranger), "place": "1003", "training": "false"}
                answer = await restarted.client.get("/connect", params=query)
                assert answer.status_code == status, days
                if status == 200:
                    assert answer.json()["clearance"] == 0
                    assert abs(int(answer.headers[AGE]) - days * 86_400) < 100
                assert await restarted.clearance(member) == 1


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(park: OutsidePark) -> None:
    user = unique_id()
    park.company.ranks[user] = CAST
    park.company.may_answer.clear()
    first, second = (asyncio.create_task(park.clearance(user)) for _ in range(2))
    await wait_until(lambda: park.company.asked == [user])
    first.cancel()
    await asyncio.wait([first])
    park.company.may_answer.set()
    assert await second == 1
    assert park.company.asked == [user]


async def test_an_unknown_player_with_a_rank_gets_an_account_and_a_guest_does_not(park: OutsidePark) -> None:
    member, guest, stranger = unique_id(), unique_id(), unique_id()
    park.company.ranks |= {member: CAST, guest: GUEST}
    for _ in range(3):
        assert [await park.clearance(user) for user in (member, guest, stranger)] == [1, 0, 0]
    assert park.company.asked == [member, guest, stranger]
    assert [bool(await park.account(user)) for user in (member, guest, stranger)] == [True, False, False]
    assert await park.rank_changes(member) == [CAST]
    assert int((await park.connect(guest)).headers[AGE]) < 60


async def test_an_account_without_a_rank_gets_one_with_its_age(park: OutsidePark) -> None:
    user = unique_id()
    await park.service.record_shifts([shift_logged(user, 1)])
    park.company.ranks[user] = CAST
    assert await park.clearance(user) == 1
    account = await park.account(user)
    assert account is not None
    assert (account["points"], account["rankid"]) == (1, CAST)
    assert datetime.now(UTC) - account["rank_read_at"] < timedelta(minutes=1)


# ------------------------------------------------------------------------------- as it is now, and setting


async def test_a_fresh_rank_is_the_one_that_the_provider_has_now(park: OutsidePark) -> None:
    user = unique_id()
    park.company.names[user] = "Boss"
    park.company.ranks[user] = MANAGER
    await park.store(user, GUEST, minutes=1)
    assert (await park.member(user)).json()["rankid"] == GUEST
    assert (await park.member(user, fresh="true")).json()["rankid"] == MANAGER
    assert (await park.member(user)).json()["rankid"] == MANAGER
    assert await park.rank_changes(user) == [MANAGER]


async def test_without_an_answer_there_is_no_fresh_rank(hurried: OutsidePark) -> None:
    user = unique_id()
    await hurried.store(user, CAST, minutes=1)
    await hurried.database["accounts"].update_one({"id": user}, {"$set": {"username": "Cast"}})
    hurried.company.is_down = True
    assert (await hurried.member(user, fresh="true")).status_code == 503
    hurried.company.is_down = False
    hurried.company.may_answer.clear()

    async def is_told_soon() -> bool:
        began = time.monotonic()
        assert (await hurried.member(user, fresh="true")).status_code == 503
        return time.monotonic() - began < 4

    await wait_until(is_told_soon, 60)  # a machine that pauses makes one try longer, not all


async def test_a_rank_that_was_set_is_young(park: OutsidePark) -> None:
    user = unique_id()
    park.company.names[user] = "Applicant"
    for _ in range(2):
        answer = await park.client.post("/internal/rank", json={"user": user, "rankid": TRAINEE})
        assert answer.json() == {"id": user, "username": "Applicant", "rankid": TRAINEE}
    assert int((await park.connect(user)).headers[AGE]) < 60
    assert await park.rank_changes(user) == [TRAINEE]
    assert park.company.asked == []


async def test_a_refusal_says_what_can_be_done(park: OutsidePark) -> None:
    park.company.refusal = RankRefused("not a member", discord="Ask them to join the group.")
    answer = await park.client.post("/internal/rank", json={"user": unique_id(), "rankid": TRAINEE})
    assert (answer.status_code, answer.json()["discord"]) == (409, "Ask them to join the group.")


async def test_setting_a_rank_is_given_up_before_applications_does(hurried: OutsidePark) -> None:
    hurried.company.may_answer.clear()

    async def is_given_up_in_time() -> bool:
        began = time.monotonic()
        answer = await hurried.client.post("/internal/rank", json={"user": unique_id(), "rankid": TRAINEE})
        assert answer.status_code == 503
        return time.monotonic() - began < 3.9

    await wait_until(is_given_up_in_time, 60)  # a machine that pauses makes one try longer, not all


# ---------------------------------------------------------------------------------------------------- names


async def test_a_username_older_than_a_day_is_read_again(park: OutsidePark) -> None:
    user = unique_id()
    park.company.names[user] = "Before"
    park.company.ranks[user] = CAST
    await park.clearance(user)
    assert (await park.profile(user)).json()["username"] == "Before"
    park.company.names[user] = "After"
    assert (await park.profile(user)).json()["username"] == "Before"
    old = {"username_read_at": datetime.now(UTC) - timedelta(hours=25)}
    await park.database["accounts"].update_one({"id": user}, {"$set": old})

    async def is_renamed() -> bool:
        return bool((await park.profile(user)).json()["username"] == "After")

    await wait_until(is_renamed)
    account = await park.account(user)
    assert account is not None
    assert account["username_key"] == "after"


async def named(park: OutsidePark, user: int, name: str, *, hours: float) -> None:
    """An account whose name was read so long ago."""
    await park.store(user, CAST, minutes=1)
    read_at = datetime.now(UTC) - timedelta(hours=hours)
    name_now = {"username": name, "username_key": name.casefold(), "username_read_at": read_at}
    await park.database["accounts"].update_one({"id": user}, {"$set": name_now})


async def by_name(park: OutsidePark, name: str) -> tuple[int, str]:
    """Whom /profile?username= shows."""
    found = (await park.client.get("/profile", params={"username": name})).json()
    return found["id"], found["username"]


async def test_a_new_name_by_which_somebody_was_found_is_shown_by_their_id_at_once(park: OutsidePark) -> None:
    user = unique_id()
    before, after = f"Before_{user}", f"After_{user}"
    await named(park, user, before, hours=1)
    park.company.names[user] = after
    assert (await park.profile(user)).json()["username"] == before  # nobody learnt of it yet
    assert await by_name(park, after.upper()) == (user, after)
    assert (await park.profile(user)).json()["username"] == after
    park.company.is_down = True
    assert await by_name(park, after) == (user, after)
    assert (await park.client.get("/profile", params={"username": before})).status_code == 503


async def test_a_name_that_was_read_earlier_does_not_undo_a_newer_one(
    park: OutsidePark, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = unique_id()
    before, after = f"Before_{user}", f"After_{user}"
    await named(park, user, after, hours=0.1)

    async def remembered(_: str) -> Person:
        return Person(user, before, datetime.now(UTC) - timedelta(hours=0.2))

    monkeypatch.setattr(park.company, "by_username", remembered)
    assert await by_name(park, before) == (user, after)
    account = await park.account(user)
    assert account is not None and account["username"] == after


async def test_a_former_name_leads_to_whoever_has_it_now_though_nobody_answers(park: OutsidePark) -> None:
    now, former = unique_id(), unique_id()
    name = f"Wanted_{former}"
    await named(park, now, f"Other_{now}", hours=1)
    await named(park, former, name, hours=1)  # this account is the newer one
    park.company.names |= {now: name, former: f"Renamed_{former}"}
    assert await by_name(park, name) == (now, name)
    park.company.is_down = True
    assert await by_name(park, name) == (now, name)
    assert (await park.profile(former)).json()["username"] == name  # as it was read last
    park.company.is_down = False

    async def is_renamed() -> bool:
        return bool((await park.profile(former)).json()["username"] == f"Renamed_{former}")

    await wait_until(is_renamed)
    assert await by_name(park, name) == (now, name)


async def test_people_who_are_looked_up_at_once_are_asked_for_once(park: OutsidePark) -> None:
    user = unique_id()
    park.company.names[user] = f"Popular_{user}"
    park.company.ranks[user] = CAST
    asked = 0
    by_username = park.company.by_username

    async def count(username: str) -> object:
        nonlocal asked
        asked += 1
        return await by_username(username)

    park.company.by_username = count  # type: ignore[method-assign, assignment]
    query = {"username": f"Popular_{user}"}
    answers = await asyncio.gather(*(park.client.get("/profile", params=query) for _ in range(10)))
    assert {answer.json()["id"] for answer in answers} == {user}
    assert asked == 1
