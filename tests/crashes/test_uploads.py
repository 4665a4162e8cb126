"""A service dies in the middle of an upload: sent again, it is one application, told once."""

import signal
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.applications.builders import act_headers, four_answers
from tests.crashes.points import NOT_KEPT, NOT_SHOWN, NOT_SUBMITTED
from tests.support import unique_id, wait_until
from tests.support.accounting import events
from tests.support.machine import Machine


async def upload(client: httpx.AsyncClient, user: int, **headers: str) -> httpx.Response | None:
    """Upload an application; None when no answer comes."""
    try:
        return await client.post(
            "/application/upload", params={"id": user}, json=four_answers(), headers=headers
        )
    except httpx.HTTPError:
        return None


async def urls(park: Machine, user: int) -> list[str]:
    """Where the user's applications can be read."""
    async with park.mongodb() as client:
        return [one["url"] async for one in client["applications"]["applications"].find({"user": user})]


async def let_it_count_as_broken_off(park: Machine, user: int) -> None:
    """As if the upload that is pending had been so for an hour."""
    async with park.mongodb() as client:
        pending = {"_id": f"game:upload-{user}", "made": {"$exists": False}}
        change = {"$set": {"at": datetime.now(UTC) - timedelta(hours=1)}}
        await client["applications"]["idempotency"].update_one(pending, change)


@pytest.mark.parametrize(
    ("point", "is_taken"), [(NOT_KEPT, False), (NOT_SUBMITTED, False), (NOT_SHOWN, True)]
)
async def test_an_upload_that_died_on_its_way_is_one_application_when_it_is_sent_again(
    park: Machine, point: str, is_taken: bool
) -> None:
    user = unique_id()
    headers = act_headers(f"upload-{user}", "game")
    park.arm("applications", point)
    async with park.service("applications") as client:
        assert await upload(client, user, **headers) is None
        assert await park.wait("applications") == -signal.SIGKILL
        assert len(await urls(park, user)) == is_taken
        await let_it_count_as_broken_off(park, user)
        await park.start("applications")
        again = await upload(client, user, **headers)
        assert again and again.status_code == 200
        assert ("Idempotent-Replayed" in again.headers) == is_taken
        third = await upload(client, user, **headers)
        assert third and third.text == again.text
        url = again.json()["url"]
        text = await client.get(httpx.URL(url).path)
    assert "I like trains." in text.text
    assert await urls(park, user) == [url]

    async def is_told() -> bool:
        return [event["url"] for event in await events(park, "applications", user)] == [url]

    await wait_until(is_told, seconds=60)
