"""Who worked how long: `python -m bench.plain.shifts PORT`."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Response
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from pydantic import BaseModel

from bench.plain.setup import SHIFT_LOGGED, Client, check_token, jetstream, mongo_client, serve
from common.events import ShiftLogged, new_id
from common.group import load_group

POLL_SECONDS = 0.1

group = load_group(Path("callboard.toml"))


class LogAnswer(BaseModel):
    """A shift that is recorded."""

    status: str = "success"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect, and publish what is in the outbox for as long as the service runs."""
    async with mongo_client() as client, jetstream() as stream:
        app.state.client = client
        publishing = asyncio.create_task(publish(client, stream))
        yield
        publishing.cancel()


app = FastAPI(lifespan=lifespan, dependencies=[Depends(check_token)])


@app.post("/log")
async def log(
    id: Annotated[int, Query(gt=0)],  # noqa: A002 - the parameter's name
    place: Annotated[int, Query(gt=0)],
    duration: Annotated[float, Query(ge=1, le=24 * 3600)],
    training: bool,
    server: Annotated[str, Query(min_length=1, max_length=100)],
    response: Response,
    ended_at: Annotated[float | None, Query()] = None,
    idempotency_key: Annotated[str | None, Header()] = None,
    x_plain_key: Annotated[str, Header()] = "",
) -> LogAnswer:
    """Record a shift that somebody worked, once, however often it is sent."""
    rules = group.places.get(place)
    if rules is None:
        raise HTTPException(400, "unknown place")
    arrived_at = int(time.time())
    ended = arrived_at if ended_at is None else min(int(ended_at), arrived_at)
    if ended_at is not None and not -60 <= arrived_at - ended_at <= 7 * 24 * 3600:
        raise HTTPException(400, "ended_at must be at most 60 seconds ahead and at most 7 days old")
    shift = {
        "_id": new_id(),
        "user": id,
        "place": place,
        "server": server,
        "training": training,
        "duration": int(duration),
        "given_ended_at": None if ended_at is None else int(ended_at),
        "started_at": ended - int(duration),
        "ended_at": ended,
        "key": x_plain_key,
        "logged_at": datetime.now(UTC),
    }
    if idempotency_key:
        shift["idempotency_key"] = idempotency_key
    if rules.certifications and not training:
        member = await app.state.client["plain_shifts"].members.find_one({"_id": id})
        known = member.get("certifications", {}) if member else {}
        if not any(known.get(code, {}).get("held") for code in rules.certifications):
            raise HTTPException(400, "invalid certification")
    if await record(app.state.client, shift):
        response.headers["Idempotent-Replayed"] = "true"
    return LogAnswer()


async def record(client: Client, shift: dict[str, Any]) -> bool:
    """Store a shift, its person's timesheet and its event together; answers whether it came before."""
    database = client["plain_shifts"]
    async with client.start_session() as session:

        async def work(_: Any) -> bool:
            if "idempotency_key" in shift:
                used = await database.shifts.find_one(
                    {
                        # $type lets MongoDB use the partial index.
                        "idempotency_key": {"$eq": shift["idempotency_key"], "$type": "string"},
                        "key": shift["key"],
                    },
                    session=session,
                )
                if used is not None:
                    if not is_same(shift, used):
                        raise HTTPException(422, "this Idempotency-Key was used for another shift")
                    return True
            near = await database.shifts.find(
                {"user": shift["user"], "ended_at": {"$gt": shift["started_at"] - 60}}, session=session
            ).to_list()
            if "idempotency_key" not in shift and any(is_repeat(shift, other) for other in near):
                return True
            sheet = await database.timesheets.find_one({"_id": shift["user"]}, session=session)
            uncovered = uncovered_seconds(shift, near)
            credited = min(uncovered, group.points.longest_credited_hours * 3600)
            paid_for = 0 if shift["training"] else credited
            seconds = paid_for + (sheet["carry_seconds"] if sheet else 0)
            stored = shift | {
                "credited_seconds": credited,
                "points": seconds // 60,
                "flags": ["overlap"] if shift["duration"] - uncovered > 60 else [],
            }
            event = logged(stored)
            await database.shifts.insert_one(stored, session=session)
            await database.timesheets.update_one(
                {"_id": shift["user"]},
                {"$set": {"carry_seconds": seconds % 60}, "$inc": {"shifts": 1}},
                upsert=True,
                session=session,
            )
            await database.outbox.insert_one(
                {
                    "_id": event.id,
                    "payload": event.model_dump_json().encode(),
                    "created_at": datetime.now(UTC),
                    "sent": False,
                },
                session=session,
            )
            return False

        return await session.with_transaction(work)


def is_same(shift: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two say the same, but for when they came."""
    fields = ("user", "place", "server", "duration", "training", "given_ended_at")
    return all(shift[field] == other[field] for field in fields)


def is_repeat(shift: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a shift without an Idempotency-Key is a recorded one told again."""
    overlap = min(shift["ended_at"], other["ended_at"]) - max(shift["started_at"], other["started_at"])
    return is_same(shift, other) and (shift["given_ended_at"] is not None or 2 * overlap > shift["duration"])


def uncovered_seconds(shift: dict[str, Any], near: list[dict[str, Any]]) -> int:
    """The seconds of a shift that no other covers."""
    uncovered, reached = 0, shift["started_at"]
    for other in sorted(near, key=lambda one: one["started_at"]):
        if other["started_at"] >= shift["ended_at"]:
            break
        uncovered += max(0, other["started_at"] - reached)
        reached = max(reached, other["ended_at"])
    return int(uncovered + max(0, shift["ended_at"] - reached))


def logged(shift: dict[str, Any]) -> ShiftLogged:
    """The event of a new shift."""
    fields = {name: shift[name] for name in ShiftLogged.model_fields if name in shift}
    return ShiftLogged(id=shift["_id"], occurred_at=shift["logged_at"], logged_by=shift["key"], **fields)


async def publish(client: Client, stream: JetStreamContext) -> None:
    """Publish what is in the outbox, oldest first, until cancelled."""
    outbox = client["plain_shifts"].outbox
    while True:
        async for row in outbox.find({"sent": False}).sort("_id").limit(100):
            try:
                await stream.publish(SHIFT_LOGGED, row["payload"], headers={"Nats-Msg-Id": row["_id"]})
            except NatsError:
                break
            await outbox.update_one(
                {"_id": row["_id"]}, {"$set": {"sent": True, "sent_at": datetime.now(UTC)}}
            )
        await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
