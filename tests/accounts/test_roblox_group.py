"""A group on Roblox as a whole: which of its roles stand for the ranks, and who its members are."""

import pytest

from accounts.errors import RankRefused
from accounts.plugins import CursorLost, OutsideRanking
from accounts.plugins.roblox import RobloxRanking
from common.errors import Unavailable
from common.mongo import Database
from common.plugins import Examinable
from tests.accounts.on_roblox import CAST, EXECUTIVE, GATEWAY_401, MANAGER, SENIOR, TRAINEE, ranking, read
from tests.standins import Fault, Forged
from tests.standins.roblox import LADDER, Roblox
from tests.support import wait_until

pytestmark = pytest.mark.usefixtures("patient")

TOO_LARGE = Forged(200, {"groupMemberships": [{"user": f"users/{2**63}", "roles": []}]})


# ------------------------------------------------------------------------------------------------- roles


async def test_a_rank_without_a_role_is_told_and_refused_and_the_others_work(
    database: Database, standin: Roblox, caplog: pytest.LogCaptureFixture
) -> None:
    standin.add_role("Also Cast", CAST)
    del standin.roles[standin.ladder["Executive"].id]
    user = standin.add_member("Manager").id
    async with ranking(database, standin) as plugin:
        for name, rankid in (("Executive", EXECUTIVE), ("Cast Member", CAST)):
            assert f'the rank "{name}" ({rankid}) has no role' in caplog.text
            with pytest.raises(RankRefused, match=f"no role for the rank {name}"):
                await plugin.set(user, rankid)
        await plugin.set(user, SENIOR)
    assert standin.holds(user) == {"Senior Cast Member"}


async def test_a_role_can_be_given_by_its_id(database: Database, standin: Roblox) -> None:
    also_cast = standin.add_role("Also Cast", CAST)
    async with ranking(database, standin, roles={"cast member": also_cast.id}) as plugin:
        user = standin.add_member("Cast Member").id
        assert await read(plugin, user) == 0
        await plugin.set(user, CAST)
    assert standin.holds(user) == {"Cast Member", "Also Cast"}


async def test_an_id_that_is_given_no_more_is_forgotten(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Cast Member").id
    wrong = standin.add_role("Wrong", 99)
    for roles, rankid in (({}, CAST), ({"Cast Member": wrong.id}, 0), ({}, CAST)):
        async with ranking(database, standin, roles=roles) as plugin:
            assert await read(plugin, user) == rankid


async def test_ranks_that_are_numbered_anew_change_nothing(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Cast Member").id
    async with ranking(database, standin) as plugin:
        await read(plugin, user)
    standin.ladder["Cast Member"].rank = 25
    usurper = standin.add_role("Usurper", CAST)
    async with ranking(database, standin) as plugin:
        assert await read(plugin, user) == CAST
        assert await read(plugin, standin.add_member(usurper).id) == 0
    del standin.roles[standin.ladder["Cast Member"].id]
    standin.members.clear()
    async with ranking(database, standin) as plugin:
        assert await read(plugin, standin.add_member(usurper).id) == CAST


async def test_a_group_of_many_roles_is_read_page_by_page(database: Database, standin: Roblox) -> None:
    for number in range(50):
        standin.add_role(f"Department {number}", 100 + number)
    ids = dict(zip(LADDER, sorted(standin.roles)[-len(LADDER) :], strict=True))
    async with ranking(database, standin, roles=ids) as plugin:
        for name, rankid in LADDER.items():
            assert await read(plugin, standin.add_member(standin.roles[ids[name]]).id) == rankid
    pages = standin.received("/roles")
    assert [page.query["maxPageSize"] for page in pages] == ["20"] * 3


async def test_a_first_start_waits_for_roblox_and_does_not_fail(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Manager").id
    standin.faults.always(Fault.CLOSED)
    async with ranking(database, standin) as plugin:
        standin.faults.clear()
        for call in (read(plugin, user), plugin.members(""), plugin.set(user, CAST)):
            with pytest.raises(Unavailable):
                await call

        async def is_read() -> bool:
            try:
                return await read(plugin, user) == MANAGER
            except Unavailable:
                return False

        await wait_until(is_read)


async def test_a_later_start_knows_the_roles_without_roblox(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Manager").id
    async with ranking(database, standin) as plugin:
        await read(plugin, user)
    standin.faults.always(Fault.BROKEN, path="/roles")
    async with ranking(database, standin) as plugin:
        assert await read(plugin, user) == MANAGER


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"groupRoles": []},
        {"groupRoles": None},
        {"groupRoles": [{"rank": TRAINEE}]},
        {"groupRoles": [{"id": str(2**64), "rank": TRAINEE, "displayName": "Too large"}]},
    ],
    ids=str,
)
async def test_a_surprise_instead_of_roles_makes_nobody_forget_them(
    database: Database, standin: Roblox, body: dict[str, object]
) -> None:
    user = standin.add_member("Manager").id
    async with ranking(database, standin) as plugin:
        await read(plugin, user)
    standin.faults.next(Forged(200, body))
    async with ranking(database, standin) as plugin:
        assert await read(plugin, user) == MANAGER


# ----------------------------------------------------------------------------------------------- members


async def walk(plugin: RobloxRanking) -> list[tuple[int, int]]:
    """All members, page by page."""
    found: list[tuple[int, int]] = []
    cursor = ""
    while True:
        page = await plugin.members(cursor)
        found += page.members
        cursor = page.next
        if not cursor:
            return found


async def test_all_members_who_hold_a_rank_are_listed_page_by_page(
    plugin: RobloxRanking, standin: Roblox
) -> None:
    builder = standin.add_role("Builder", 200)
    expected = {}
    for _ in range(50):
        standin.add_member()
        standin.add_member(builder)
        for name, rankid in LADDER.items():
            expected[standin.add_member(name, "University Student").id] = rankid
    assert dict(await walk(plugin)) == expected
    pages = standin.received("/memberships")
    assert [page.query["maxPageSize"] for page in pages] == ["100"] * 4


async def test_roles_without_a_rank_or_a_name_hinder_no_other(database: Database, standin: Roblox) -> None:
    user = standin.add_member("Manager").id
    roles: list[dict[str, object]] = [
        {"path": f"groups/{standin.group}/roles/{standin.guest.id}", "displayName": "Guest"},
        {"id": str(standin.base.id), "rank": 1, "displayName": None},
        {"id": str(standin.role("Manager").id), "rank": MANAGER, "new": {}},
        {"id": standin.owner.id, "rank": 255, "displayName": "Owner"},
    ]
    standin.faults.always(Forged(200, {"groupRoles": roles}), path="/roles")
    async with ranking(database, standin) as plugin:
        assert await read(plugin, user) == MANAGER


async def test_a_member_that_cannot_be_read_hinders_no_other_and_is_counted_and_told_once(
    plugin: RobloxRanking, standin: Roblox, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"groups/{standin.group}/roles/{standin.role('Manager').id}"
    listed = [{"user": f"users/{user}", "roles": [role]} for user in range(1, 98)]
    bad: list[object] = [{"roles": [role]}, {"user": "users/98", "roles": ["CANARY"]}, None]
    for token in ({}, {"nextPageToken": None}, {"nextPageToken": ""}):
        standin.faults.next(Forged(200, {"groupMemberships": [*bad, *listed], **token}))
        page = await plugin.members("")
        assert (list(page.members), page.next, page.omitted) == (
            [(user, MANAGER) for user in range(1, 98)],
            "",
            3,
        )
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        "Roblox answered with a list of which 3 cannot be read, and are left out: user: Field required"
    )
    assert "CANARY" not in caplog.text


async def test_an_empty_group_has_one_empty_page(plugin: RobloxRanking) -> None:
    page = await plugin.members("")
    assert (list(page.members), page.next) == ([], "")


async def test_a_place_in_the_list_that_is_lost_is_told(plugin: RobloxRanking, standin: Roblox) -> None:
    standin.add_member("Manager")
    with pytest.raises(CursorLost):
        await plugin.members("a-token-of-last-year")


@pytest.mark.parametrize(
    "fault", [Fault.BROKEN, Fault.GARBAGE, GATEWAY_401, Forged(200, {}), TOO_LARGE], ids=str
)
async def test_a_list_that_is_broken_is_an_outage(
    plugin: RobloxRanking, standin: Roblox, fault: Fault | Forged
) -> None:
    standin.faults.always(fault)
    with pytest.raises(Unavailable):
        await plugin.members("")


async def test_it_is_what_accounts_takes_for_a_ranking_that_is_kept_outside(plugin: RobloxRanking) -> None:
    assert isinstance(plugin, OutsideRanking)
    assert isinstance(plugin, Examinable)
