"""A service dies in the middle of an approval: it is finished once, by the next start or the next request."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.applications.builders import act_headers
from tests.crashes.points import NOT_APPROVED, NOT_CONFIRMED, NOT_RANKED, NOT_TOLD
from tests.support import wait_until
from tests.support.accounting import events
from tests.support.machine import Machine


async def approve(park: Machine, user: int, key: str | None = None) -> httpx.Response | None:
    """Approve somebody, with this Idempotency-Key if any; None when no answer comes."""
    params: dict[str, str | int] = {"id": user, "moderator": "4000"}
    async with park.service("applications") as client:
        try:
            return await client.post("/application/approve", params=params, headers=act_headers(key, "bot"))
        except httpx.HTTPError:
            return None


async def records(park: Machine, user: int) -> list[Any]:
    """The status of each of a user's applications."""
    async with park.mongodb() as client:
        found = client["applications"]["applications"].find({"user": user})
        return [record["status"] async for record in found]


async def rank(park: Machine, user: int) -> Any:
    """The rank that accounts shows."""
    async with park.service("accounts") as client:
        return (await client.get("/internal/member", params={"id": user})).json()["rankid"]


async def lease_until(park: Machine, user: int, end: datetime) -> None:
    """Let the approval belong until then to whoever began it."""
    async with park.mongodb() as client:
        change = {"$set": {"claimed_until": end}}
        result = await client["applications"]["applications"].update_one({"user": user}, change)
        assert result.matched_count == 1


async def approved_once(park: Machine, user: int) -> None:
    """Return once the approval is done, which must be recorded and told once, as the rank must."""

    async def is_approved() -> bool:
        return await records(park, user) == ["approved"]

    await wait_until(is_approved, seconds=60)
    assert await rank(park, user) == 10
    assert len(await events(park, "applications", user)) == 1
    assert [event["rankid"] for event in await events(park, "accounts", user)] == [10]


@pytest.mark.parametrize(("point", "rankid"), [(NOT_RANKED, 0), (NOT_APPROVED, 10)])
async def test_an_approval_that_a_crash_left_behind_is_finished_by_the_next_start(
    park: Machine, point: str, rankid: int
) -> None:
    user = (await park.person("Guest")).id
    park.arm("applications", point)
    assert await approve(park, user) is None
    assert await park.wait("applications") == -signal.SIGKILL
    assert await records(park, user) == ["approving"]
    assert await rank(park, user) == rankid
    await lease_until(park, user, datetime.now(UTC))
    await park.start("applications")
    await approved_once(park, user)
    again = await approve(park, user)
    assert again and again.json() == {"status": "error", "message": "user is already trainee/cast"}


@pytest.mark.parametrize("point", [NOT_RANKED, NOT_APPROVED, NOT_CONFIRMED])
async def test_an_approval_that_died_anywhere_is_a_success_when_its_key_comes_again(
    park: Machine, point: str
) -> None:
    user = (await park.person("Guest")).id
    key = f"approve-{user}"
    park.arm("applications", point)
    assert await approve(park, user, key) is None
    assert await park.wait("applications") == -signal.SIGKILL
    await lease_until(park, user, datetime.now(UTC))
    await park.start("applications")
    for _ in range(2):
        again = await approve(park, user, key)
        assert again and (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    await approved_once(park, user)


async def test_an_approval_that_a_crash_left_behind_is_finished_by_the_next_request(park: Machine) -> None:
    user = (await park.person("Guest")).id
    park.arm("applications", NOT_APPROVED)
    assert await approve(park, user) is None
    assert await park.wait("applications") == -signal.SIGKILL
    await lease_until(park, user, datetime.now(UTC) + timedelta(hours=1))  # the start leaves it alone
    await park.start("applications")
    waiting = asyncio.create_task(approve(park, user))
    await lease_until(park, user, datetime.now(UTC))
    again = await waiting
    assert again and (again.status_code, again.json()["status"]) == (200, "success")
    await approved_once(park, user)


async def test_a_rank_that_accounts_set_before_it_died_is_recorded_and_told_when_asked_again(
    park: Machine,
) -> None:
    user = (await park.person("Guest")).id
    park.arm("accounts", NOT_TOLD)
    answer = await approve(park, user)
    assert answer and answer.status_code == 502
    assert await park.wait("accounts") == -signal.SIGKILL
    await park.start("accounts")
    again = await approve(park, user)
    assert again and again.status_code == 200
    await approved_once(park, user)
