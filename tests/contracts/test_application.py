"""POST /application/upload, GET /applications/{token} and POST /application/approve."""

import asyncio
import gzip
import json
import re
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.contracts.park import NO_SUCH_USER, NOT_FOUND, QUESTIONS, Park, is_refused
from tests.contracts.people import CAST, EXECUTIVE, GUEST, MANAGER, TRAINEE, Person, Rank
from tests.support import unique_id

APPROVED = '{"status":"success","message":"successfully ranked user"}'
ALREADY_RANKED = '{"status":"error","message":"user is already trainee/cast"}'
LONGEST_ANSWER = 4000


def answers(**changes: Any) -> dict[str, Any]:
    """Four answers of which no other application has any; None: left out."""
    number = unique_id()
    own = {
        question: f"Answer {number} to {question}: I'd <b>smile</b> & wave \N{WAVING HAND SIGN}"
        for question in QUESTIONS
    }
    return {question: text for question, text in (own | changes).items() if text is not None}


# ----------------------------------------------------------------------------------------------- upload


@pytest.mark.parametrize("kind", ["json", "data"])
async def test_an_application_is_kept_and_can_be_read_at_its_url(park: Park, kind: str) -> None:
    own = answers()
    park.secrets |= set(own.values())
    response = await park.upload(park.person().id, **{kind: own})
    url = response.json()["url"]
    assert (response.status_code, response.text) == (200, f'{{"status":"success","url":"{url}"}}')
    text = (await park.client.get(url)).text
    positions = [text.index(answer) for answer in own.values()]
    assert positions == sorted(positions)
    for question in ("Why do you want to work here?", "How much time can you give each week?"):
        assert question in text


async def test_an_application_is_served_as_plain_private_text(park: Park) -> None:
    url = (await park.upload(park.person().id, json=answers())).json()["url"]
    response = await park.client.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-store"
    assert response.headers["x-robots-tag"] == "noindex"
    assert response.headers["referrer-policy"] == "no-referrer"


async def test_the_url_of_an_application_cannot_be_guessed(park: Park) -> None:
    same = answers()
    person = park.person()
    urls = [(await park.upload(person.id, json=same)).json()["url"] for _ in range(2)]
    assert urls[0] != urls[1]
    for url in urls:
        park.secrets.add(url.rpartition("/")[2])
        assert re.fullmatch(re.escape(park.url) + r"/applications/[A-Za-z0-9_-]{22,}", url)
        assert str(person.id) not in url


async def test_the_url_does_not_come_from_the_host_that_the_caller_names(park: Park) -> None:
    headers = {"Host": "elsewhere.example", "X-Forwarded-Host": "elsewhere.example"}
    response = await park.call(
        "POST", "/application/upload", {"id": 1}, key=park.keys["roblox"], headers=headers, json=answers()
    )
    assert "elsewhere" not in response.text


@pytest.mark.parametrize("token", ["x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "a" * 300, "$ne", "%7B%7D"])
async def test_an_application_that_was_never_there_is_404(park: Park, token: str) -> None:
    response = await park.call("GET", f"/applications/{token}")
    assert (response.status_code, response.text) == (404, NOT_FOUND)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kind", ["json", "data"])
async def test_an_upload_names_the_question_that_is_missing(park: Park, kind: str, question: str) -> None:
    response = await park.upload(1, **{kind: answers(**{question: None})})
    is_refused(response, 400, "invalid query: ", question)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kind", ["json", "data"])
@pytest.mark.parametrize("blank", ["", " ", "\t\n  \r\n", "\N{NO-BREAK SPACE}\N{EM SPACE}"], ids=ascii)
async def test_an_upload_names_the_question_that_is_blank(
    park: Park, blank: str, kind: str, question: str
) -> None:
    response = await park.upload(1, **{kind: answers(**{question: blank})})
    is_refused(response, 400, "invalid query: ", question)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("value", [1, 1.5, True, [], ["text"], {}, {"$ne": ""}], ids=str)
async def test_an_upload_names_the_question_that_is_no_text(park: Park, question: str, value: object) -> None:
    response = await park.upload(1, json=answers(**{question: value}))
    is_refused(response, 400, "invalid query: ", question)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_an_upload_names_the_question_that_is_null(park: Park, question: str) -> None:
    response = await park.upload(1, json={**answers(), question: None})
    is_refused(response, 400, "invalid query: ", question)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kind", ["json", "data"])
async def test_an_upload_names_the_question_that_is_too_long(park: Park, kind: str, question: str) -> None:
    response = await park.upload(1, **{kind: answers(**{question: "x" * (LONGEST_ANSWER + 1)})})
    is_refused(response, 400, "invalid query: ", question)


@pytest.mark.parametrize("kind", ["json", "data"])
@pytest.mark.parametrize("character", ["x", "é", "\N{GRINNING FACE}"])
async def test_four_answers_of_the_greatest_length_are_taken(park: Park, kind: str, character: str) -> None:
    longest = dict.fromkeys(QUESTIONS, character * LONGEST_ANSWER)
    response = await park.upload(park.person().id, **{kind: longest})
    assert response.status_code == 200, response.text
    assert (await park.client.get(response.json()["url"])).text.count(character * LONGEST_ANSWER) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"17",
        b'{"q1":}',
        b"\xff\xfe",
        b'{"q1":"\xff"}',
        b'{"q1":NaN}',
        b"[" * 50_000,
    ],
    ids=lambda content: ascii(content[:8]),
)
async def test_a_body_that_is_no_json_object_is_400(park: Park, content: bytes) -> None:
    response = await park.call(
        "POST",
        "/application/upload",
        {"id": 1},
        key=park.keys["roblox"],
        headers={"Content-Type": "application/json"},
        content=content,
    )
    is_refused(response, 400, "invalid query: ")


async def test_a_charset_may_be_named_with_the_content_type(park: Park) -> None:
    own = answers()
    response = await park.call(
        "POST",
        "/application/upload",
        {"id": 1},
        key=park.keys["roblox"],
        headers={"Content-Type": "Application/JSON; charset=utf-8"},
        content=json.dumps(own).encode(),
    )
    assert own["q1"] in (await park.client.get(response.json()["url"])).text


async def test_a_body_beyond_192_kib_is_413(park: Park) -> None:
    too_large = {"q1": "x" * (192 * 1024)}
    is_refused(await park.upload(1, json=too_large), 413)
    is_refused(await park.upload(1, data=too_large), 413)


async def test_a_body_beyond_192_kib_that_hides_its_length_is_413(park: Park) -> None:
    async def pieces() -> Any:
        for _ in range(200):
            yield b" " * 1024

    response = await park.call(
        "POST",
        "/application/upload",
        {"id": 1},
        key=park.keys["roblox"],
        headers={"Content-Type": "application/json"},
        content=pieces(),
    )
    is_refused(response, 413)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_packed_body_is_read(park: Park, kind: str) -> None:
    own = answers()
    content = json.dumps(own) if kind == "application/json" else urlencode(own)
    response = await _upload_packed(park, kind, content.encode())
    assert response.status_code == 200, response.text
    assert own["q4"] in (await park.client.get(response.json()["url"])).text


async def test_a_packed_body_is_limited_by_what_it_unpacks_to(park: Park) -> None:
    is_refused(await _upload_packed(park, "application/json", b" " * 50_000_000), 413)


async def _upload_packed(park: Park, kind: str, content: bytes) -> httpx.Response:
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
    return await park.call(
        "POST",
        "/application/upload",
        {"id": 1},
        key=park.keys["roblox"],
        headers=headers,
        content=gzip.compress(content),
    )


# ---------------------------------------------------------------------------------------------- approve


async def test_an_approved_person_is_a_trainee(park: Park) -> None:
    person = park.person(GUEST)
    response = await park.approve(person.id)
    assert (response.status_code, response.text) == (200, APPROVED)
    assert response.headers["content-type"] == "application/json"

    async def account() -> str | None:
        return await park.account(person.id)

    await park.shows(person.profile(account=await account(), rank=TRAINEE), id=person.id)
    assert (await park.connect(person.id, training=True)).json()["auth"] is True


async def test_approval_needs_no_upload_and_an_upload_does_not_hinder_it(park: Park) -> None:
    for applied in (False, True):
        person = park.person(GUEST)
        if applied:
            assert (await park.upload(person.id, json=answers())).status_code == 200
        assert (await park.approve(person.id)).text == APPROVED


@pytest.mark.parametrize("rank", [TRAINEE, CAST, MANAGER, EXECUTIVE], ids=lambda rank: rank.name)
async def test_a_trainee_or_cast_member_is_not_approved(park: Park, rank: Rank) -> None:
    person = park.person(rank)
    response = await park.approve(person.id)
    assert (response.status_code, response.text) == (400, ALREADY_RANKED)
    account = await park.account(person.id)
    assert (await park.profile(id=person.id)).text == person.profile(account=account)


async def test_an_approval_is_not_repeated(park: Park) -> None:
    person = park.person(GUEST)
    assert (await park.approve(person.id)).text == APPROVED
    response = await park.approve(person.id)
    assert (response.status_code, response.text) == (400, ALREADY_RANKED)


async def test_somebody_who_left_may_be_approved_again(park: Park) -> None:
    person = park.person(GUEST)
    assert (await park.approve(person.id)).text == APPROVED
    await park.admit([Person(person.id, person.username, person.discord, GUEST)])
    assert (await park.approve(person.id)).text == APPROVED
    assert (await park.profile(id=person.id)).json()["rank"] == TRAINEE.name


async def test_a_user_nobody_knows_is_not_approved(park: Park) -> None:
    response = await park.approve(unique_id())
    assert (response.status_code, response.text) == (404, NO_SUCH_USER)


async def test_of_many_approvals_at_once_the_person_is_ranked_once(park: Park) -> None:
    person = park.person(GUEST)
    responses = await asyncio.gather(*(park.approve(person.id) for _ in range(6)))
    assert {response.text for response in responses} <= {APPROVED, ALREADY_RANKED}
    assert APPROVED in {response.text for response in responses}
    assert (await park.profile(id=person.id)).json()["rank"] == TRAINEE.name
    assert (await park.approve(person.id)).text == ALREADY_RANKED


async def test_an_approved_person_earns_points_as_before(park: Park) -> None:
    person = park.person(GUEST)
    await park.log_minute(person.id)
    await park.has_points(person.id, 1)
    account = await park.account(person.id)
    assert (await park.approve(person.id)).text == APPROVED
    await park.shows(person.profile(account=account, points=1, rank=TRAINEE), id=person.id)


async def test_the_moderator_of_an_approval_is_a_discord_id_or_a_roblox_id(park: Park) -> None:
    for moderator in ("400000000000000004", "roblox:4"):
        assert (await park.approve(park.person(GUEST).id, moderator=moderator)).text == APPROVED
    for moderator in ("ParkManager", "discord:4", "roblox:", "0"):
        refused = await park.approve(park.person(GUEST).id, moderator=moderator)
        is_refused(refused, 400, "invalid query: moderator")


# ---------------------------------------------------------------------------------------------- repeats


async def test_an_upload_and_an_approval_sent_again_with_their_idempotency_keys_are_done_once(
    park: Park,
) -> None:
    person, other = park.person(GUEST), park.person(GUEST)
    own = answers()
    params = {"id": person.id, "moderator": "400000000000000004"}
    acts: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("roblox", "/application/upload", {"id": person.id}, {"json": own}),
        ("discord", "/application/approve", params, {}),
    ]
    for scope, path, query, body in acts:
        headers = {"Idempotency-Key": f"act-{person.id}"}
        key = park.keys[scope]
        first, again = [
            await park.call("POST", path, query, key=key, headers=headers, **body) for _ in range(2)
        ]
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.text == first.text
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        changed = await park.call("POST", path, query | {"id": other.id}, key=key, headers=headers, **body)
        is_refused(changed, 422, "this Idempotency-Key was used for another request")
    assert (await park.profile(id=other.id)).json()["rank"] == GUEST.name
