"""Who a player is, and the ledger of points: `python -m bench.plain.accounts PORT`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from pydantic import BaseModel
from pymongo.errors import DuplicateKeyError

from bench.plain.setup import CONSUMER, SHIFT_LOGGED, Client, check_token, jetstream, mongo_client, serve
from common.events import ShiftLogged
from common.group import load_group

group = load_group(Path("callboard.toml"))


class ConnectAnswer(BaseModel):
    """What a game server needs to know of a player who joins."""

    certifications: str
    auth: bool
    clearance: int


class ProfileAnswer(BaseModel):
    """What is known of a user."""

    status: str = "success"
    id: int
    username: str
    points: int
    rank: str
    rankid: int
    cast: bool
    certifications: list[str]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect, and consume events for as long as the service runs."""
    async with mongo_client() as client, jetstream() as stream:
        app.state.database = client["plain_accounts"]

        async def on_message(message: Msg) -> None:
            await record_shift(client, ShiftLogged.model_validate_json(message.data))
            await message.ack()

        await stream.subscribe(
            SHIFT_LOGGED,
            durable=CONSUMER,
            cb=on_message,
            manual_ack=True,
            config=ConsumerConfig(ack_wait=30, max_ack_pending=64),
        )
        yield


app = FastAPI(lifespan=lifespan, dependencies=[Depends(check_token)])


@app.get("/connect")
async def connect(
    place: Annotated[int, Query(gt=0)],
    id: Annotated[int, Query(gt=0)],  # noqa: A002 - the parameter's name
    training: bool,
) -> ConnectAnswer:
    """Who is this player, and may they be on this server?"""
    rules = group.places.get(place)
    if rules is None:
        raise HTTPException(400, "unknown place")
    account = await app.state.database.accounts.find_one({"id": id})
    rankid = await find_rankid(id, account)
    clearance = group.clearance_at(rankid)
    codes = list(group.certifications) if training and group.training.grants_all else held(account)
    allowed = clearance >= rules.minimum_clearance
    if training:
        allowed = allowed and group.is_trainee_or_cast(rankid)
    return ConnectAnswer(certifications=",".join(codes), auth=allowed, clearance=clearance)


@app.get("/profile")
async def profile(id: Annotated[int, Query(gt=0)]) -> ProfileAnswer:  # noqa: A002 - the parameter's name
    """Points, rank and certifications of a user."""
    account = await app.state.database.accounts.find_one({"id": id})
    if account is None:
        raise HTTPException(404, "couldn't find user")
    rankid = await find_rankid(id, account)
    rank = group.rank_at(rankid)
    return ProfileAnswer(
        id=id,
        username=account.get("username", str(id)),
        points=account["points"],
        rank=rank.name,
        rankid=rank.rankid,
        cast=group.is_cast(rankid),
        certifications=held(account),
    )


def held(account: dict[str, Any] | None) -> list[str]:
    """The codes of the certifications held, in the order of the configuration."""
    known = account.get("certifications", {}) if account else {}
    return [code for code in group.certifications if known.get(code, {}).get("held")]


async def find_rankid(user: int, account: dict[str, Any] | None) -> int:
    """The rank in the account, else that of the person, else the lowest."""
    if account and account.get("rankid") is not None:
        return int(account["rankid"])
    person = await app.state.database.people.find_one({"_id": user})
    return int(person["rankid"]) if person else group.ranks.ladder[0].rankid


async def record_shift(client: Client, shift: ShiftLogged) -> None:
    """Count a shift once, however often it comes."""
    database = client["plain_accounts"]
    entry = {
        "_id": shift.id,
        "user": shift.user,
        "points": shift.points,
        "reason": "shift",
        "ref": shift.id,
        "at": shift.occurred_at,
        "by": shift.logged_by,
    }
    async with client.start_session() as session:

        async def work(_: Any) -> None:
            await database.ledger.insert_one(entry, session=session)
            await database.accounts.update_one(
                {"id": shift.user},
                {"$inc": {"points": shift.points}, "$setOnInsert": {"created_at": datetime.now(UTC)}},
                upsert=True,
                session=session,
            )

        with suppress(DuplicateKeyError):  # it came before
            await session.with_transaction(work)


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
