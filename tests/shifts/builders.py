"""What the tests of shifts are made of."""

import time
from datetime import UTC, datetime
from typing import Any

import httpx

from common.events import new_id
from common.outgoing.headers import KEY_NAME_HEADER
from shifts.models import Shift
from tests.support import unique_id


def shift(**given: Any) -> dict[str, Any]:
    """The parameters of a shift of a new person, ten minutes long and just ended."""
    return {
        "id": unique_id(),
        "place": 1001,
        "duration": 600,
        "training": "false",
        "server": "server-1",
        "ended_at": int(time.time()),
    } | given


def bare(**given: Any) -> dict[str, Any]:
    """The form of old games: no `ended_at`, and sent without an Idempotency-Key."""
    parameters = shift(**given)
    del parameters["ended_at"]
    return parameters


async def log(
    client: httpx.AsyncClient,
    parameters: dict[str, Any],
    idempotency_key: str | None = None,
    key: str = "game",
) -> httpx.Response:
    """POST /log as the gateway forwards it, with the key's name."""
    headers = {KEY_NAME_HEADER: key}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    return await client.post("/log", params=parameters, headers=headers)


def recorded_shift(user: int, started_at: int, ended_at: int) -> Shift:
    """A shift as it is stored."""
    return Shift(
        id=new_id(),
        user=user,
        place=1001,
        server="a",
        training=False,
        duration=ended_at - started_at,
        given_ended_at=None,
        started_at=started_at,
        ended_at=ended_at,
        credited_seconds=0,
        points=0,
        flags=(),
        key="north",
        idempotency_key=None,
        logged_at=datetime.now(UTC),
    )
