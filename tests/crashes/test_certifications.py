"""Certifications dies while it grants or revokes: sent again with its Idempotency-Key, the change is made once."""

import signal

import httpx
import pytest

from tests.crashes.points import NOT_CERTIFIED, NOT_KEYED, NOT_PUBLISHED, NOT_SAID
from tests.support import unique_id, wait_until
from tests.support.accounting import events
from tests.support.machine import Machine


async def change(park: Machine, what: str, user: int, key: str) -> httpx.Response | None:
    """Grant or revoke; None when no answer comes."""
    params: dict[str, str | int] = {"id": user, "certification": "tot", "moderator": "400000000000000004"}
    async with park.service("certifications") as client:
        try:
            return await client.post(
                f"/certification/{what}", params=params, headers={"Idempotency-Key": key}
            )
        except httpx.HTTPError:
            return None


@pytest.mark.parametrize(
    ("point", "is_done"),
    [(NOT_KEYED, False), (NOT_CERTIFIED, False), (NOT_SAID, True), (NOT_PUBLISHED, True)],
)
@pytest.mark.parametrize("what", ["grant", "revoke"])
async def test_a_change_that_a_crash_interrupted_is_made_once_when_it_is_sent_again(
    park: Machine, what: str, point: str, *, is_done: bool
) -> None:
    user, key = (await park.person()).id, f"key-{unique_id()}"
    if what == "revoke":
        assert (first := await change(park, "grant", user, f"before-{key}")) and first.status_code == 200
        # What is published of it must not be what the armed process dies with.
        await wait_until_sent(park, user, 1)
    before = len(await events(park, "certifications", user))
    park.arm("certifications", point)
    await change(park, what, user, key)
    assert await park.wait("certifications") == -signal.SIGKILL
    assert len(await events(park, "certifications", user)) == before + is_done
    await park.start("certifications")
    answers: list[httpx.Response] = []

    async def is_answered() -> bool:
        answer = await change(park, what, user, key)
        assert answer and answer.status_code in (200, 503), answer
        answers.append(answer)
        return answer.status_code == 200

    await wait_until(
        is_answered, seconds=60
    )  # MongoDB keeps what the dead process wrote locked for some seconds
    assert ("Idempotent-Replayed" in answers[-1].headers) == is_done
    await wait_until_sent(park, user, before + 1)


async def wait_until_sent(park: Machine, user: int, number: int) -> None:
    """Return once this many events of the person are sent, and there must be no other."""

    async def are_sent() -> bool:
        found = await events(park, "certifications", user)
        assert len(found) <= number
        return [event["sent"] for event in found] == [True] * number

    await wait_until(are_sent, seconds=60)
