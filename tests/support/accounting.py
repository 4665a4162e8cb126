"""What the databases hold of some people."""

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import httpx

from common.outgoing.headers import KEY_NAME_HEADER
from tests.support.machine import Machine


@dataclass(frozen=True)
class Counts:
    """How often a person's shifts are there, and the points that they earned."""

    shifts: int = 0
    events: int = 0
    unsent: int = 0
    ledger_entries: int = 0
    points: int = 0


ENDED_AT = int(time.time())
"""When all shifts of these tests ended, however often they are sent (Unix s)."""

NOTHING = Counts()
STORED = Counts(shifts=1, events=1, unsent=1)
ONCE = Counts(shifts=1, events=1, unsent=0, ledger_entries=1, points=10)
"""A shift of `log`, counted as it should be."""


async def count(park: Machine, *users: int) -> list[Counts]:
    """The accounting of each person."""
    found = dict.fromkeys(users, NOTHING)

    def add(user: int, **more: int) -> None:
        before = found[user]
        found[user] = replace(before, **{name: getattr(before, name) + n for name, n in more.items()})

    async with park.mongodb() as client:
        shifts, accounts = client["shifts"], client["accounts"]
        owner: dict[str, int] = {}
        async for shift in shifts["shifts"].find({"user": {"$in": users}}):
            owner[shift["_id"]] = shift["user"]
            add(shift["user"], shifts=1)
        async for event in shifts["outbox"].find({"_id": {"$in": list(owner)}}):
            add(owner[event["_id"]], events=1, unsent=int(not event["sent"]))
        async for entry in accounts["ledger"].find({"user": {"$in": users}}):
            add(entry["user"], ledger_entries=1)
        async for account in accounts["accounts"].find({"id": {"$in": users}}):
            add(account["id"], points=account["points"])
    return [found[user] for user in users]


async def is_counted(park: Machine, *users: int) -> bool:
    """Whether each person's shift is counted once."""
    return await count(park, *users) == [ONCE for _ in users]


async def letters(park: Machine, service: str = "accounts") -> dict[str, str]:
    """The reasons of a service's dead letters, by event."""
    async with park.mongodb() as client:
        return {one["_id"]: one["reason"] async for one in client[service]["dead_letters"].find()}


async def buried(park: Machine, *users: int) -> list[str]:
    """The reasons of those dead letters of accounts that are shifts of these people."""
    async with park.mongodb() as client:
        shifts = [one["_id"] async for one in client["shifts"]["shifts"].find({"user": {"$in": users}})]
        found = client["accounts"]["dead_letters"].find({"_id": {"$in": shifts}})
        return [one["reason"] async for one in found]


async def events(park: Machine, service: str, user: int) -> list[dict[str, Any]]:
    """A service's events about a person, and whether they were sent."""
    async with park.mongodb() as client:
        rows = [row async for row in client[service]["outbox"].find()]
    found = [json.loads(row["payload"]) | {"sent": row["sent"]} for row in rows]
    return [event for event in found if event["user"] == user]


async def log(client: httpx.AsyncClient, user: int) -> httpx.Response | None:
    """Log ten minutes of this person; None when no answer comes. Sent again, it is the same shift."""
    params: dict[str, Any] = {
        "id": user,
        "place": 1001,
        "duration": 600,
        "training": "false",
        "server": "server-1",
        "ended_at": ENDED_AT,
    }
    headers = {KEY_NAME_HEADER: "game", "Idempotency-Key": f"shift-{user}"}
    try:
        return await client.post("/log", params=params, headers=headers)
    except httpx.HTTPError:
        return None
