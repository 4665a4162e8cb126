"""Granting and revoking: who may, what is answered, and in which order it is judged."""

import asyncio

import pytest

from tests.certifications.builders import AWAY, CAST, DISCORD, GUEST, MODERATOR, TRAINEE, Member, Park
from tests.support import unique_id

RANK_TOO_LOW = (
    '{"status":"error","discord":"The requested user does not meet the rank pre-requisites to receive a '
    'certification."}'
)
NO_SUCH_USER = (
    '{"status":"error","message":"couldn\'t find user","discord":"We couldn\'t find the requested user, '
    'please ensure you typed it correctly and try again."}'
)
UNKNOWN = (
    '{"status":"error","message":"unknown certification \\"fly\\", known ones: char, tot, mtp, btmr, rnrc",'
    '"discord":"Unknown certification \\"fly\\", known ones: char, tot, mtp, btmr, rnrc."}'
)
CHANGES = ("grant", "revoke")


def shown(username: str) -> str:
    return username.replace("_", r"\\_")


def granted(member: Member, code: str = "tot") -> str:
    return f'{{"status":"success","discord":"Successfully granted **{shown(member.username)}** the **{code}** certification."}}'


def revoked(member: Member, code: str = "tot") -> str:
    return f'{{"status":"success","discord":"Successfully revoked **{shown(member.username)}**\'s **{code}** certification."}}'


def already_held(member: Member, code: str = "tot") -> str:
    return f'{{"status":"error","discord":"**{shown(member.username)}** already has the **{code}** certification."}}'


def not_held(member: Member, code: str = "tot") -> str:
    return f'{{"status":"error","discord":"**{shown(member.username)}** doesn\'t have the **{code}** certification."}}'


async def test_a_grant_is_answered_to_the_character(park: Park) -> None:
    member = park.accounts.member()
    answer = await park.grant(member)
    assert (answer.status_code, answer.text) == (200, granted(member))
    assert answer.headers["content-type"] == "application/json"


async def test_a_revocation_is_answered_to_the_character(park: Park) -> None:
    member = park.accounts.member()
    await park.grant(member)
    answer = await park.revoke(member)
    assert (answer.status_code, answer.text) == (200, revoked(member))


async def test_what_is_held_is_not_granted_again(park: Park) -> None:
    member = park.accounts.member()
    await park.grant(member)
    answer = await park.grant(member)
    assert (answer.status_code, answer.text) == (400, already_held(member))
    assert len(await park.events(member)) == 1


async def test_what_was_never_held_is_not_revoked(park: Park) -> None:
    member = park.accounts.member()
    answer = await park.revoke(member)
    assert (answer.status_code, answer.text) == (400, not_held(member))
    assert await park.records(member) == []


async def test_what_was_revoked_is_not_revoked_again(park: Park) -> None:
    member = park.accounts.member()
    await park.grant(member)
    await park.revoke(member)
    answer = await park.revoke(member)
    assert (answer.status_code, answer.text) == (400, not_held(member))
    assert len(await park.events(member)) == 2


async def test_a_username_matches_in_any_case_and_is_answered_in_its_true_case(park: Park) -> None:
    member = park.accounts.member()
    assert (await park.grant(member, username=member.username.upper())).text == granted(member)
    assert (await park.grant(member, username=member.username.lower())).text == already_held(member)
    assert (await park.revoke(member, username=member.username.lower())).text == revoked(member)


async def test_certifications_are_held_apart_from_each_other(park: Park) -> None:
    member = park.accounts.member()
    assert (await park.grant(member, "tot")).text == granted(member, "tot")
    assert (await park.grant(member, "char")).text == granted(member, "char")
    assert (await park.revoke(member, "mtp")).text == not_held(member, "mtp")
    assert (await park.revoke(member, "tot")).text == revoked(member, "tot")
    assert (await park.grant(member, "char")).text == already_held(member, "char")


@pytest.mark.parametrize(
    ("rankid", "status"), [(GUEST, 403), (TRAINEE - 1, 403), (TRAINEE, 200), (CAST, 200), (255, 200)]
)
async def test_a_grant_needs_the_minimum_rank(park: Park, rankid: int, status: int) -> None:
    member = park.accounts.member(rankid)
    answer = await park.grant(member)
    assert (answer.status_code, answer.text) == (status, RANK_TOO_LOW if status == 403 else granted(member))
    assert len(await park.records(member)) == (0 if status == 403 else 1)


async def test_a_rank_is_read_afresh_before_a_grant_is_refused(park: Park) -> None:
    member = park.accounts.member(GUEST)
    park.accounts.fresh_ranks[member.id] = TRAINEE
    assert (await park.grant(member)).text == granted(member)


async def test_a_rank_that_is_high_enough_is_not_read_afresh(park: Park) -> None:
    member = park.accounts.member(TRAINEE)
    park.accounts.fresh_ranks[member.id] = GUEST
    park.accounts.asked.clear()
    assert (await park.grant(member)).text == granted(member)
    assert len(park.accounts.asked) == 1


async def test_a_grant_is_never_refused_for_a_rank_that_cannot_be_read_now(park: Park) -> None:
    member = park.accounts.member(GUEST)
    park.accounts.fresh_ranks[member.id] = AWAY
    answer = await park.grant(member)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert await park.records(member) == []


@pytest.mark.parametrize("change", CHANGES)
async def test_a_member_is_named_by_an_id_as_well(park: Park, change: str) -> None:
    member = park.accounts.member()
    for number, named in enumerate(({"id": member.id}, {"discord": member.id + DISCORD})):
        code = ("tot", "char")[number]
        if change == "revoke":
            await park.grant(member, code)
        params: dict[str, str | int] = {"certification": code, "moderator": "roblox:4", **named}
        answer = await park.client.post(f"/certification/{change}", params=params)
        expected = granted(member, code) if change == "grant" else revoked(member, code)
        assert (answer.status_code, answer.text) == (200, expected)


async def test_a_revocation_needs_no_rank(park: Park) -> None:
    member = park.accounts.member(TRAINEE)
    await park.grant(member)
    demoted = park.accounts.member(GUEST, member.id)
    assert (await park.revoke(demoted)).text == revoked(member)


@pytest.mark.parametrize("change", CHANGES)
async def test_an_unknown_certification_is_refused_with_the_known_ones(park: Park, change: str) -> None:
    answer = await getattr(park, change)(park.accounts.member(), "fly")
    assert (answer.status_code, answer.text) == (400, UNKNOWN)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_code_matches_exactly(park: Park, change: str) -> None:
    assert (await getattr(park, change)(park.accounts.member(), "TOT")).status_code == 400


@pytest.mark.parametrize("change", CHANGES)
async def test_an_unknown_user_is_not_found(park: Park, change: str) -> None:
    answer = await getattr(park, change)(Member(1, f"nobody-{unique_id()}", CAST))
    assert (answer.status_code, answer.text) == (404, NO_SUCH_USER)


async def test_each_check_comes_before_the_next(park: Park) -> None:
    """Parameters, certification, user, rank, what is held."""
    nobody = Member(1, f"nobody-{unique_id()}", CAST)
    answer = await park.client.post("/certification/grant", params={"certification": "fly", "username": "x"})
    assert answer.text == '{"status":"error","message":"invalid query: moderator is missing"}'
    assert (await park.grant(nobody, "fly")).text == UNKNOWN
    assert (await park.grant(nobody)).text == NO_SUCH_USER
    member = park.accounts.member()
    await park.grant(member)
    demoted = park.accounts.member(GUEST, member.id)
    assert (await park.grant(demoted)).text == RANK_TOO_LOW


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"certification": None}, "certification is missing"),
        ({"certification": ""}, "certification is missing"),
        ({"username": None}, "expected exactly one of id, username and discord"),
        ({"id": "1"}, "expected exactly one of id, username and discord"),
        ({"username": None, "id": "1", "discord": "1"}, "expected exactly one of id, username and discord"),
        ({"username": None, "id": "x"}, "id must be a whole number from 1 to 9223372036854775807"),
        ({"moderator": None}, "moderator is missing"),
        ({"username": ["a", "b"]}, "username is given more than once"),
        ({"username": "x" * 101}, "username must be printable text of 1 to 100 characters"),
        ({"username": "a\nb"}, "username must be printable text of 1 to 100 characters"),
        ({"moderator": "ParkManager"}, "moderator must be a Discord id, or roblox: and a Roblox id"),
    ],
)
async def test_a_wrong_parameter_is_named(
    park: Park, change: str, changes: dict[str, str | list[str] | None], why: str
) -> None:
    values = {"certification": "tot", "username": "Roblox", "moderator": MODERATOR} | changes
    params = {name: value for name, value in values.items() if value is not None}
    answer = await park.client.post(f"/certification/{change}", params=params)
    assert answer.status_code == 400
    assert answer.text == f'{{"status":"error","message":"invalid query: {why}"}}'


async def test_two_grants_at_once_make_one_grant(park: Park) -> None:
    for _ in range(10):
        member = park.accounts.member()
        answers = await asyncio.gather(*(park.grant(member) for _ in range(4)))
        assert sorted(answer.text for answer in answers) == sorted(
            [granted(member)] + [already_held(member)] * 3
        )
        assert len(await park.events(member)) == 1


async def test_two_grants_at_once_of_what_was_revoked_make_one_grant(park: Park) -> None:
    member = park.accounts.member()
    await park.grant(member)
    await park.revoke(member)
    answers = await asyncio.gather(*(park.grant(member) for _ in range(4)))
    assert sorted(answer.text for answer in answers) == sorted([granted(member)] + [already_held(member)] * 3)
    (record,) = await park.records(member)
    assert record["version"] == 3


async def test_two_revocations_at_once_make_one_revocation(park: Park) -> None:
    member = park.accounts.member()
    await park.grant(member)
    answers = await asyncio.gather(*(park.revoke(member) for _ in range(4)))
    assert sorted(answer.text for answer in answers) == sorted([revoked(member)] + [not_held(member)] * 3)
    assert len(await park.events(member)) == 2
