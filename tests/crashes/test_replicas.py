"""A replica dies between its commit and its answer: the gateway asks another, which gives the same answer."""

import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.applications.builders import four_answers
from tests.crashes.points import APPLICATION_POINTS, CERTIFICATION_POINTS, NOT_CONFIRMED, NOT_SAID, NOT_SHOWN
from tests.support import unique_id
from tests.support.accounting import events
from tests.support.machine import PATIENCE, Machine, machine

_SERVICES = ("applications", "certifications")
_REPLICAS = tuple(f"{service}-{number}" for service in _SERVICES for number in (1, 2))


@pytest.fixture(scope="module")
async def twins() -> AsyncIterator[Machine]:
    """Two replicas of applications and of certifications behind the gateway."""
    changes = [*APPLICATION_POINTS, *CERTIFICATION_POINTS]
    replicas = dict.fromkeys(_SERVICES, 2)
    async with machine(replicas=replicas, changes=changes, patience=PATIENCE) as one:
        await one.start("accounts", *_REPLICAS, "gateway")
        yield one


async def dies_and_is_answered(
    park: Machine, point: str, scope: str, path: str, **request: object
) -> httpx.Response:
    """The answer to a request with which one of the replicas dies."""
    service = "certifications" if path.startswith("/certification/") else "applications"
    park.arm(service, point)
    key = f"{path}-{unique_id()}"
    async with park.client(scope) as client:
        answer = await client.post(path, headers={"Idempotency-Key": key}, **request)  # type: ignore[arg-type]  # what httpx takes
        again = await client.post(path, headers={"Idempotency-Key": key}, **request)  # type: ignore[arg-type]  # as above
    (dead,) = [name for name in _REPLICAS if park.processes[name].poll() is not None]
    assert park.processes[dead].returncode == -signal.SIGKILL
    await park.start(dead)
    assert (answer.status_code, answer.headers.get("Idempotent-Replayed")) == (200, "true"), answer.text
    assert again.text == answer.text
    return answer


async def records(park: Machine, user: int) -> list[tuple[str, str | None]]:
    """Status and URL of the user's applications."""
    async with park.mongodb() as client:
        found = client["applications"]["applications"].find({"user": user})
        return [(one["status"], one.get("url")) async for one in found]


async def test_when_a_replica_dies_after_it_recorded_an_upload_another_answers_its_url(
    twins: Machine,
) -> None:
    user = unique_id()
    answer = await dies_and_is_answered(
        twins, NOT_SHOWN, "roblox", "/application/upload", params={"id": user}, json=four_answers()
    )
    url = answer.json()["url"]
    assert await records(twins, user) == [("submitted", url)]
    async with twins.client("roblox") as client:
        assert "I like trains." in (await client.get(url)).text


async def test_when_a_replica_dies_after_it_recorded_an_approval_another_answers_that_it_is_done(
    twins: Machine,
) -> None:
    user = (await twins.person("Guest")).id
    params = {"id": user, "moderator": "4000"}
    answer = await dies_and_is_answered(
        twins, NOT_CONFIRMED, "discord", "/application/approve", params=params
    )
    assert answer.json() == {"status": "success", "message": "successfully ranked user"}
    assert await records(twins, user) == [("approved", None)]


async def test_when_a_replica_dies_after_it_changed_a_certification_another_answers_that_it_is_done(
    twins: Machine,
) -> None:
    person = await twins.person("Cast Member")
    params = {"id": person.id, "certification": "tot", "moderator": "4000"}
    for number, path in enumerate(("/certification/grant", "/certification/revoke"), 1):
        answer = await dies_and_is_answered(twins, NOT_SAID, "discord", path, params=params)
        assert answer.json()["discord"].startswith("Successfully ")
        assert len(await events(twins, "certifications", person.id)) == number
