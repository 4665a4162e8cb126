"""A service dies in the middle of an upload: sent again, it is one application, told once."""

import signal

import httpx
import pytest

from tests.applications.builders import act_headers, four_answers
from tests.crashes.points import NOT_KEPT, NOT_SHOWN, NOT_SUBMITTED, UPLOAD_POINTS
from tests.support import unique_id, wait_until
from tests.support.accounting import events
from tests.support.machine import PATIENT, Machine, machine


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


async def test_when_a_replica_dies_after_its_commit_the_caller_gets_the_answer_of_another() -> None:
    """From the gateway, which sends again what has an Idempotency-Key."""
    user = unique_id()
    async with machine(replicas={"applications": 2}, changes=[*PATIENT, *UPLOAD_POINTS]) as park:
        await park.start(
            "accounts", "certifications", "applications-1", "applications-2", "shifts", "gateway"
        )
        async with park.client("roblox") as client:
            park.arm("applications", NOT_SHOWN)
            answer = await upload(client, user, **{"Idempotency-Key": f"upload-{user}"})
            assert answer and (answer.status_code, answer.headers["Idempotent-Replayed"]) == (200, "true")
            assert "I like trains." in (await client.get(answer.json()["url"])).text
        assert sum(process.poll() == -signal.SIGKILL for process in park.processes.values()) == 1
        assert await urls(park, user) == [answer.json()["url"]]
