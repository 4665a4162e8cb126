"""GET /applications/{token}: the text of an application, while it lasts."""

from datetime import UTC, datetime, timedelta

from applications.repository import COLLECTIONS, Repository
from applications.settings import ApplicationsLimits
from common.mongo import check_migrated
from tests.applications.builders import PUBLIC_URL, Park
from tests.support import unique_id

NOT_FOUND = '{"status":"error","message":"not found"}'


def token_of(url: str) -> str:
    return url.removeprefix(f"{PUBLIC_URL}/applications/")


async def test_the_text_shows_who_and_when_and_each_question_above_its_answer(shared_park: Park) -> None:
    user = unique_id()
    before = datetime.now(UTC)
    answer = await shared_park.upload(user, q1="I like trains.\nA lot.", q2="Žluťoučký kůň 🎢")
    page = await shared_park.read(answer.json()["url"])
    times = [f"{at:%Y-%m-%d %H:%M}" for at in (before, datetime.now(UTC))]
    expected = [
        f"""\
Application of user {user}, {time} UTC

Why do you want to work here?
I like trains.
A lot.

What would you do if a guest broke the rules?
Žluťoučký kůň 🎢

How much time can you give each week?
Ten hours.

Is there anything else we should know?
No.
"""
        for time in times
    ]
    assert page.status_code == 200
    assert page.content.decode() in expected


async def test_the_text_is_plain_and_private(shared_park: Park) -> None:
    page = await shared_park.read((await shared_park.upload(unique_id(), q1="<script>")).json()["url"])
    assert "<script>" in page.text
    assert page.headers["content-type"] == "text/plain; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "private, no-store"
    assert page.headers["x-robots-tag"] == "noindex"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["content-disposition"] == "inline"
    assert page.headers["content-security-policy"] == "default-src 'none'; sandbox"


async def test_an_unknown_token_is_not_found(shared_park: Park) -> None:
    url = (await shared_park.upload(unique_id())).json()["url"]
    right = token_of(url)
    alike = right[:-1] + ("A" if right[-1] != "A" else "B")
    for token in (
        right.swapcase(),
        alike,
        right[:-1],
        f"{right}A",
        right[:16],
        right[0],
        "x",
        "x" * 5000,
        "%00",
        "%ff",
        "$ne",
        "{}",
    ):
        page = await shared_park.client.get(f"/applications/{token}")
        assert (page.status_code, page.text) == (404, NOT_FOUND), token
    assert (await shared_park.client.get("/applications/")).status_code == 404


async def test_a_text_lasts_as_long_as_the_configuration_says(shared_park: Park) -> None:
    before = datetime.now(UTC)
    url = (await shared_park.upload(unique_id())).json()["url"]
    document = await shared_park.database["documents"].find_one({"_id": token_of(url)})
    assert document is not None
    lasts = document["expires_at"] - before
    assert timedelta(days=30) - timedelta(seconds=1) < lasts < timedelta(days=30, minutes=1)


async def test_an_expired_text_is_not_found_while_the_record_stays(shared_park: Park) -> None:
    """Also in the minute that MongoDB may take to remove it."""
    user = unique_id()
    url = (await shared_park.upload(user)).json()["url"]
    await shared_park.database["documents"].update_one(
        {"_id": token_of(url)}, {"$set": {"expires_at": datetime.now(UTC) - timedelta(milliseconds=1)}}
    )
    page = await shared_park.read(url)
    assert (page.status_code, page.text) == (404, NOT_FOUND)
    (record,) = await shared_park.records(user)
    assert record["status"] == "submitted"


async def test_a_text_is_readable_until_it_expires(shared_park: Park) -> None:
    token = f"token-{unique_id()}"
    await Repository(shared_park.database, ApplicationsLimits()).add_text(
        token, "text", datetime.now(UTC) + timedelta(minutes=1)
    )
    assert (await shared_park.client.get(f"/applications/{token}")).text == "text"


async def test_mongodb_removes_expired_texts_by_itself_and_no_record(shared_park: Park) -> None:
    await check_migrated(shared_park.database, COLLECTIONS)
    texts = await shared_park.database["documents"].index_information()
    assert texts["forget_expired"]["key"] == [("expires_at", 1)]
    assert texts["forget_expired"]["expireAfterSeconds"] == 0
    records = await shared_park.database["applications"].index_information()
    assert not [name for name, index in records.items() if "expireAfterSeconds" in index]
