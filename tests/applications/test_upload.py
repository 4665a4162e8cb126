"""POST /application/upload: what is taken, what is refused, and what is kept of it."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote_plus

import httpx
import nats
import pytest

from applications.api import LARGEST_BODY
from common.events import ApplicationSubmitted, parse_event
from tests.applications.builders import PUBLIC_URL, Park, four_answers, park, refusing_events
from tests.support import Servers, unique_id

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


async def send(here: Park, content: bytes, headers: dict[str, str]) -> httpx.Response:
    return await here.client.post(
        "/application/upload", params={"id": unique_id()}, content=content, headers=headers
    )


def is_refused(answer: httpx.Response, why: str) -> bool:
    return (
        answer.status_code == 400 and answer.text == f'{{"status":"error","message":"invalid query: {why}"}}'
    )


async def test_an_upload_answers_the_url_of_the_text_below_the_public_url(shared_park: Park) -> None:
    answer = await shared_park.upload(unique_id())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    url = answer.json()["url"]
    assert answer.text == f'{{"status":"success","url":"{url}"}}'
    assert url.startswith(f"{PUBLIC_URL}/applications/")
    assert len(url.removeprefix(f"{PUBLIC_URL}/applications/")) == 43  # 256 bits


@pytest.mark.parametrize("public_url", ["https://other.example/board", "https://other.example/board/"])
async def test_the_url_is_built_from_the_setting_and_never_from_host(
    servers: Servers, public_url: str
) -> None:
    async with park(servers, public_url=public_url) as here:
        here.client.headers["host"] = "evil.example"
        answer = await here.upload(unique_id())
    assert answer.json()["url"].startswith("https://other.example/board/applications/")


async def test_an_upload_leaves_a_submitted_record_and_its_event(shared_park: Park) -> None:
    user = unique_id()
    url = (await shared_park.upload(user)).json()["url"]
    (record,) = await shared_park.records(user)
    (payload,) = await shared_park.events(user, "application_submitted")
    assert (record["status"], record["url"]) == ("submitted", url)
    event = parse_event(ApplicationSubmitted, payload)
    assert isinstance(event, ApplicationSubmitted)
    assert (event.application, event.user, event.url) == (record["_id"], user, url)


async def test_the_event_arrives_on_nats_and_holds_no_answer(servers: Servers, shared_park: Park) -> None:
    user = unique_id()
    async with await nats.connect(servers.nats_url) as bus:
        heard = await bus.subscribe(ApplicationSubmitted.SUBJECT)
        await bus.flush()
        await shared_park.upload(user, q1="The canary sings.")
        while f'"user":{user},'.encode() not in (message := await heard.next_msg(timeout=60)).data:
            pass
    event = parse_event(ApplicationSubmitted, message.data)
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == event.id
    assert b"canary" not in message.data


async def test_when_the_event_cannot_be_stored_no_record_is(shared_park: Park) -> None:
    user = unique_id()
    async with refusing_events(shared_park.database):
        answer = await shared_park.upload(user)
    assert answer.status_code == 500
    assert await shared_park.records(user) == []


async def test_an_upload_does_not_ask_whether_the_user_exists(shared_park: Park) -> None:
    assert (await shared_park.upload(2**63 - 1)).status_code == 200


async def test_a_person_may_apply_more_than_once(shared_park: Park) -> None:
    user = unique_id()
    first, second = await shared_park.upload(user), await shared_park.upload(user)
    assert len(await shared_park.records(user)) == 2
    assert first.json()["url"] != second.json()["url"]


@pytest.mark.parametrize(
    "how",
    [
        {"json": four_answers()},
        {"data": four_answers()},
        {"files": {k: (None, v) for k, v in four_answers().items()}},
    ],
    ids=["json", "form", "multipart"],
)
async def test_json_and_forms_are_taken_alike(shared_park: Park, how: dict[str, Any]) -> None:
    answer = await shared_park.client.post("/application/upload", params={"id": unique_id()}, **how)
    text = (await shared_park.read(answer.json()["url"])).text
    assert "Why do you want to work here?\nI like trains.\n" in text


@pytest.mark.parametrize("escape", [str, quote_plus], ids=["raw", "escaped"])
async def test_forms_may_hold_any_language(shared_park: Park, escape: Callable[[str], str]) -> None:
    answers = four_answers(q1="Žluťoučký kůň 🎢", q2="日本語", q3="العربية")
    content = "&".join(f"{question}={escape(text)}" for question, text in answers.items())
    answer = await send(shared_park, content.encode(), FORM)
    text = (await shared_park.read(answer.json()["url"])).text
    assert all(given in text for given in answers.values())


async def test_fields_that_nobody_asked_for_are_ignored(shared_park: Park) -> None:
    body = b'{"q1":"a","q2":"b","q3":"c","q4":"d","q5":{"$ne":""},"luck":Infinity,"id":NaN,"_id":"x"}'
    assert (await send(shared_park, body, JSON)).status_code == 200
    assert (await send(shared_park, b"q1=a&q2=b&q3=c&q4=d&q5=e&q5=f", FORM)).status_code == 200


@pytest.mark.parametrize("question", ["q1", "q2", "q3", "q4"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "is blank"),
        (" \n\t\u3000", "is blank"),
        (None, "must be text"),
        (10, "must be text"),
        (True, "must be text"),
        (["I like trains."], "must be text"),
        ({"$ne": ""}, "must be text"),
        ("x" * 4001, "must be at most 4000 characters"),
    ],
)
async def test_the_question_that_is_wrong_is_named(
    shared_park: Park, question: str, value: Any, why: str
) -> None:
    user = unique_id()
    answer = await shared_park.upload(user, **{question: value})
    assert is_refused(answer, f"{question} {why}"), answer.text
    assert await shared_park.records(user) == []


@pytest.mark.parametrize("question", ["q1", "q2", "q3", "q4"])
async def test_the_question_that_is_missing_is_named(shared_park: Park, question: str) -> None:
    body = {name: text for name, text in four_answers().items() if name != question}
    assert is_refused(await send(shared_park, json.dumps(body).encode(), JSON), f"{question} is missing")


async def test_an_answer_may_be_as_long_as_the_configuration_says(shared_park: Park) -> None:
    assert (await shared_park.upload(unique_id(), q4="🎢" * 4000)).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "why"),
    [
        (b"", JSON, "body is not valid application/json"),
        (b"{", JSON, "body is not valid application/json"),
        (b'{"q1":"\xff"}', JSON, "body is not valid application/json"),
        (b"[" * 100_000, JSON, "body is not valid application/json"),
        (b'{"q1":' + b"1" * 5000 + b"}", JSON, "body is not valid application/json"),
        (b"[]", JSON, "q1 is missing"),
        (b'["q1"]', JSON, "body must be a JSON object"),
        (b'"q1"', JSON, "body must be a JSON object"),
        (b"null", JSON, "body must be a JSON object"),
        (b"", FORM, "q1 is missing"),
        (b"q1=%ff", FORM, "body is not valid application/x-www-form-urlencoded"),
        (b"q1=\xff", FORM, "body is not valid application/x-www-form-urlencoded"),
        (b"q1=a&q1=b&q2=c&q3=d&q4=e", FORM, "q1 is given more than once"),
        (b"x", {"content-type": "multipart/form-data"}, "body is not valid multipart/form-data"),
        (
            b'--b\r\ncontent-disposition: form-data; name="q1"; filename="q1.txt"\r\n\r\na\r\n--b--\r\n',
            {"content-type": "multipart/form-data; boundary=b"},
            "q1 must be text",
        ),
        (
            b"{}",
            {},
            "content type must be application/json, application/x-www-form-urlencoded or multipart/form-data",
        ),
        (
            b"{}",
            {"content-type": "text/plain"},
            "content type must be application/json, application/x-www-form-urlencoded or multipart/form-data",
        ),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    shared_park: Park, content: bytes, headers: dict[str, str], why: str
) -> None:
    answer = await send(shared_park, content, headers)
    assert is_refused(answer, why), answer.text


async def test_a_user_that_is_no_id_is_refused_before_the_body_is_read(shared_park: Park) -> None:
    answer = await shared_park.client.post("/application/upload", params={"id": "Roblox"}, content=b"{")
    assert is_refused(answer, "id must be a whole number from 1 to 9223372036854775807")
    answer = await shared_park.client.post("/application/upload", content=b"{")
    assert is_refused(answer, "id is missing")


async def test_a_body_above_192_kib_is_refused(shared_park: Park) -> None:
    fits = json.dumps(four_answers()).encode().ljust(LARGEST_BODY)
    assert (await send(shared_park, fits, JSON)).status_code == 200
    for content, headers in (
        (fits + b" ", JSON),
        (b"x=" + b"x" * LARGEST_BODY, FORM),
        (b"--b\r\n" + b"x" * LARGEST_BODY, {"content-type": "multipart/form-data; boundary=b"}),
    ):
        answer = await send(shared_park, content, headers)
        assert answer.status_code == 413, headers
        assert answer.text == '{"status":"error","message":"body too large: expected at most 196608 bytes"}'


async def test_a_body_without_a_length_is_counted_too(shared_park: Park) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 1024

    answer = await shared_park.client.post(
        "/application/upload", params={"id": unique_id()}, content=chunks(), headers=JSON
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("trouble", ["\\ud83d", "\\udc00 first", "\\u0000", "\\u001b[2J"])
async def test_characters_that_cannot_be_stored_do_no_harm(shared_park: Park, trouble: str) -> None:
    body = json.dumps(four_answers(q1="before X after")).replace("X", trouble)
    answer = await send(shared_park, body.encode(), JSON)
    assert answer.status_code == 200, answer.text
    text = (await shared_park.read(answer.json()["url"])).text
    assert "before " in text
    assert " after" in text
