"""The contract on a group at Roblox, of whose answers one in ten goes wrong, in every way there is.

So it is with Bloxlink and RoVer, each of which knows the Discord accounts of some; texts are kept at Pastebin,
as far as it takes them. Whoever gets a 503, or a 502 to an approval, tries again, as games and bots do. Left out
are the tests that import people, those of URLs that are always the own ones, and those in which somebody who
holds a rank has no account: once a rank was read, they have one.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest

from tests.contracts.park import Park, changed_config, open_park
from tests.contracts.people import GUEST, MANAGER, RANKS, TRAINEE, Person, Rank
from tests.contracts.test_application import (  # noqa: F401 - run on this park too
    APPROVED,
    test_a_user_nobody_knows_is_not_approved,
    test_an_application_is_kept_and_can_be_read_at_its_url,
    test_an_approval_is_not_repeated,
    test_an_approved_person_earns_points_as_before,
    test_an_approved_person_is_a_trainee,
    test_approval_needs_no_upload_and_an_upload_does_not_hinder_it,
    test_of_many_approvals_at_once_the_person_is_ranked_once,
)
from tests.contracts.test_certification import (  # noqa: F401 - run on this park too
    test_a_certification_is_granted_and_becomes_visible,
    test_a_certification_is_revoked_and_no_longer_visible,
    test_a_certification_that_is_held_is_not_granted_again,
    test_a_rank_below_trainee_may_not_be_certified,
    test_an_unknown_user_is_404,
    test_of_many_grants_at_once_one_succeeds,
    test_somebody_just_promoted_may_be_certified,
    test_the_trainee_rank_and_above_may_be_certified,
    test_the_username_matches_in_any_case_and_is_answered_in_its_own,
)
from tests.contracts.test_connect import (  # noqa: F401 - run on this park too
    test_a_place_lets_in_who_reaches_its_clearance,
    test_a_player_nobody_knows_is_answered_from_the_ranks_alone,
    test_a_training_server_gives_every_certification_and_lets_in_trainees_and_cast,
    test_clearance_is_the_highest_threshold_that_the_rank_reaches,
)
from tests.contracts.test_profile import (  # noqa: F401 - run on this park too
    test_a_user_nobody_knows_is_404,
    test_a_user_with_an_account_shows_its_id,
    test_a_username_is_found_in_any_case_and_answered_in_its_own,
    test_a_username_is_nothing_but_a_name,
    test_certifications_are_those_really_held_in_the_order_of_the_configuration,
    test_somebody_whom_no_plugin_knows_keeps_the_points_they_earned,
)
from tests.standins import Fault, Standin
from tests.standins.bloxlink import KEY as BLOXLINK_KEY
from tests.standins.bloxlink import Bloxlink, bloxlink
from tests.standins.pastebin import KEY as PASTEBIN_KEY
from tests.standins.pastebin import Pastebin, pastebin
from tests.standins.roblox import KEY, Roblox, roblox
from tests.standins.rover import KEY as ROVER_KEY
from tests.standins.rover import Rover, rover
from tests.support import unique_id, wait_until

SHARE = 0.1
SEED = 7
MEMBERS_PER_RANK = 60
VARIABLES = {
    "CALLBOARD_ROBLOX_KEY": KEY,
    "CALLBOARD_BLOXLINK_KEY": BLOXLINK_KEY,
    "CALLBOARD_ROVER_KEY": ROVER_KEY,
    "CALLBOARD_PASTEBIN_KEY": PASTEBIN_KEY,
}
PROXIES = {
    "ALL_PROXY": "socks://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "NO_PROXY": "localhost,127.0.0.1,::1,[::1],fd00::/8,192.168.0.0/16,.local, ,",
}
"""As Docker writes them into containers, and a proxy that nobody answers at."""


@dataclass
class RobloxPark(Park):
    """A Callboard whose people are at Roblox."""

    roblox: Roblox = field(kw_only=True)
    bloxlink: Bloxlink = field(kw_only=True)
    rover: Rover = field(kw_only=True)
    pastebin: Pastebin = field(kw_only=True)
    before_any_rank: list[httpx.Response] = field(default_factory=list)
    """What /connect and /profile said of a manager, while Roblox had never told anything of the group's members."""

    @property
    def faulty(self) -> Sequence[Standin]:
        """Those that go wrong at random."""
        return self.roblox, self.bloxlink, self.rover

    async def admit_many(self) -> None:
        """They are there."""

    def must_repeat(self, response: httpx.Response) -> bool:
        """Whether what stands behind does not answer."""
        return response.status_code in (502, 503, 504) and "discord" not in response.json()


def fill(standin: Roblox) -> dict[Rank, list[Person]]:
    """People of every rank, known to Roblox; every other guest is no member, and asks to join."""
    people: dict[Rank, list[Person]] = {rank: [] for rank in RANKS}
    for rank, those in people.items():
        for number in range(MEMBERS_PER_RANK):
            if rank is not GUEST:
                user = standin.add_member(rank.name)
            elif number % 2:
                user = standin.add_member()
            else:
                user = standin.add_user()
                standin.join_requests.add(user.id)
            those.append(Person(user.id, user.name, unique_id(), rank))
    return people


@pytest.fixture(scope="module")
async def park(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RobloxPark]:
    """The shipped park at Roblox."""
    folder = tmp_path_factory.mktemp("on-roblox")
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(roblox())
        links = await stack.enter_async_context(bloxlink())
        other_links = await stack.enter_async_context(rover())
        texts = await stack.enter_async_context(pastebin())
        people = fill(group)
        for those in people.values():
            links.links |= {one.discord: one.id for one in those[::2]}
            other_links.links |= {one.discord: one.id for one in those[1::2]}
        config = changed_config(
            folder,
            {
                'refresh_after = "15m"': 'refresh_after = "2s"',
                'identity = ["local"]': 'identity = ["roblox", "bloxlink", "rover"]',
                'ranking = "local"': 'ranking = "roblox"',
                'documents = "store"': 'documents = "pastebin"',
                "[plugins.options.local]": f"""\
[plugins.options.roblox]
group = {group.group}
open_cloud_url = "{group.url}"
users_url = "{group.url}"

[plugins.options.bloxlink]
guild = {links.guild}
url = "{links.url}"

[plugins.options.rover]
guild = {other_links.guild}
url = "{other_links.url}"

[plugins.options.pastebin]
url = "{texts.url}"

[plugins.options.local]""",
            },
        )
        group.faults.always(Fault.AWAY, path="/memberships")
        texts.faults.next(Fault.BROKEN, None, Fault.GARBAGE, path="api_post")
        running = await open_park(
            folder,
            form="on-roblox",
            config=config,
            variables=VARIABLES | PROXIES,
            kind=partial(
                RobloxPark, roblox=group, bloxlink=links, rover=other_links, pastebin=texts, _people=people
            ),
        )
        assert isinstance(running, RobloxPark)
        try:
            manager = str(people[MANAGER][0].id)
            for path, key, params in (
                ("/connect", "roblox", {"id": manager, "place": "1003", "training": "false"}),
                ("/profile", "discord", {"id": manager}),
            ):
                headers = {"x-api-key": running.keys[key], "Roblox-Id": "1003"}
                running.before_any_rank.append(await running.client.get(path, params=params, headers=headers))
            group.faults.clear()
            for standin in (group, links, other_links):
                standin.faults.retry_after = 0.1
                standin.faults.at_random(SHARE, SEED)
            yield running
        finally:
            await running.stop()


async def test_an_approval_ranks_the_person_at_roblox_whether_member_or_not(park: RobloxPark) -> None:
    people = [park.person(GUEST) for _ in range(4)]
    assert {one.id in park.roblox.members for one in people} == {True, False}
    for person in people:
        response = await park.approve(person.id)
        assert (response.status_code, response.text) == (200, APPROVED)
        assert park.roblox.holds(person.id) == {TRAINEE.name}


async def test_an_approval_of_somebody_who_does_not_ask_to_join_tells_them_to(park: RobloxPark) -> None:
    outsider = park.roblox.add_user()
    response = await park.approve(outsider.id)
    assert response.status_code == 502
    assert response.json()["message"] == "couldn't rank user"
    assert "join it on Roblox" in response.json()["discord"]
    assert outsider.id not in park.roblox.members


async def test_a_discord_account_leads_to_the_person_wherever_it_is_linked(park: RobloxPark) -> None:
    for person in [park.person(GUEST) for _ in range(4)]:
        assert (await park.profile(discord=person.discord)).text == person.profile()
    assert park.bloxlink.requests
    assert park.rover.requests


async def test_some_applications_are_at_pastebin_and_no_fault_lost_one(park: RobloxPark) -> None:
    answers = dict.fromkeys(("q1", "q2", "q3", "q4"), f"An answer {unique_id()}")
    urls = [(await park.upload(1, json=answers)).json()["url"] for _ in range(4)]
    for url in urls:
        assert (await park.client.get(url)).text.count(answers["q1"]) == 4
    assert len(park.pastebin.pastes) >= 2


async def test_nobody_at_roblox_holds_a_rank_that_was_not_given(park: RobloxPark) -> None:
    for user, roles in park.roblox.members.items():
        assert len(roles) <= 1, park.roblox.holds(user)


async def test_who_may_be_staff_is_no_guest_while_no_rank_was_ever_read(park: RobloxPark) -> None:
    for response in park.before_any_rank:
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert response.text == '{"status":"error","message":"ranking is unavailable, try again"}'


async def test_a_stranger_to_a_complete_list_is_a_guest_while_roblox_is_away(park: RobloxPark) -> None:
    await park.callboard("sync")
    stranger = unique_id()
    park.roblox.faults.always(Fault.AWAY, path="/memberships")
    try:

        async def is_guest_by_an_old_list() -> bool:
            response = await park.connect(stranger, 1003)
            assert response.text == '{"certifications":"","auth":false,"clearance":0}'
            return int(response.headers["Callboard-Rank-Age"]) > 2  # and so would be read again

        await wait_until(is_guest_by_an_old_list)
    finally:
        park.roblox.faults.clear()


async def test_everything_is_consistent_in_the_end(park: RobloxPark) -> None:
    await park.callboard("verify")
    logs = "".join(park.logs().values())
    assert not [name for name, secret in VARIABLES.items() if secret in logs]


async def test_much_went_wrong_at_roblox_and_little_of_it_was_seen(park: RobloxPark) -> None:
    struck = park.roblox.faults.struck
    assert struck.total() >= 10, struck
    assert len(struck) >= 4, struck
    everywhere = sum(one.faults.struck.total() for one in park.faulty)
    assert park.repeated <= everywhere, (park.repeated, everywhere)
    assert not [request for request in park.roblox.requests if request.method == "PATCH"]
