"""Where all candidates are measured: one mongod, one nats-server, the same people in every database."""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import psutil
from pymongo import MongoClient

from accounts import repository as accounts
from bench.plain.setup import CONSUMER, STREAM
from bench.started import ROOT, python_app, started
from bench.traffic import FIRST_PERSON, PLACE, WITH_ACCOUNT
from callboard.databases import migrate_all
from callboard.replica_set import prepare_mongod
from callboard.servers import listens, mongod, nats_server
from certifications.models import Record
from common.mongo import connect, migrate
from common.outgoing.headers import KEY_NAME_HEADER, TOKEN_HEADER
from common.settings import Settings, read_settings
from gateway.keys import create_key
from shifts import repository as shifts

POINTS = 100
"""What everybody with an account has at first."""

_SETTLE_SECONDS = 60.0
_RANKIDS = (0, 10, 20, 20, 30, 40)


@dataclass(frozen=True)
class Park:
    """The servers that run, and what their clients need to know."""

    folder: Path
    settings: Settings
    mongo: MongoClient[dict[str, Any]]
    key: str
    servers: Mapping[str, psutil.Process]

    @property
    def env(self) -> dict[str, str]:
        """What a Callboard here needs in its environment."""
        return {
            "CALLBOARD_MONGO_URL": self.settings.mongo_url.get_secret_value(),
            "CALLBOARD_NATS_URL": self.settings.nats_url.get_secret_value(),
            "CALLBOARD_INTERNAL_TOKEN": self.token,
        }

    @property
    def token(self) -> str:
        """What the services ask for."""
        return self.settings.internal_token.get_secret_value()

    @property
    def by_key(self) -> dict[str, str]:
        """The headers of a game server."""
        return {"x-api-key": self.key, "Roblox-Id": str(PLACE)}

    @property
    def by_token(self) -> dict[str, str]:
        """The headers of a call that is past the gateway."""
        return {TOKEN_HEADER: self.token, KEY_NAME_HEADER: "bench"}

    def settle(self) -> None:
        """Wait until every event is published and counted, so that the next candidate has the machine alone."""
        shifts, ledger = self.mongo.shifts, self.mongo.accounts.ledger
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (
            shifts.outbox.find_one({"sent": False}) is not None
            or shifts.shifts.estimated_document_count() != ledger.estimated_document_count()
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"events are still under way after {_SETTLE_SECONDS:.0f} s")
            time.sleep(0.1)

    def settle_plain(self) -> None:
        """Drop what the plain stack has not published and counted: one by one, it would take longer than a round."""
        asyncio.run(self._drop_plain_events())

    async def _drop_plain_events(self) -> None:
        connection = await nats.connect(self.settings.nats_url.get_secret_value())
        stream = connection.jetstream()
        while True:
            dropped = self.mongo.plain_shifts.outbox.update_many({"sent": False}, {"$set": {"sent": True}})
            await stream.purge_stream(STREAM)
            consumer = await stream.consumer_info(STREAM, CONSUMER)
            if not (dropped.modified_count or consumer.num_ack_pending or consumer.num_pending):
                break
            await asyncio.sleep(0.1)
        await connection.close()


@contextmanager
def open_park(folder: Path) -> Iterator[Park]:
    """The servers with migrated, empty databases and a key; all gone at the end."""
    with ExitStack() as stack:
        mongo, nats = mongod(folder), nats_server(folder)
        running = {
            server.name: stack.enter_context(
                started(server.name, server.command, folder, lambda port=server.port: listens(port))  # type: ignore[misc] # of a lambda's default
            )
            for server in (mongo, nats)
        }
        settings = read_settings(
            Settings,
            mongo_url=mongo.url,
            nats_url=nats.url,
            internal_token=secrets.token_urlsafe(32),
            config=ROOT / "callboard.toml",
        )
        key = asyncio.run(_prepare(settings))
        client: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(mongo.url))
        yield Park(folder, settings, client, key, running)


def add_people(park: Park, points: int = POINTS) -> None:
    """The people whom the traffic asks for, those with an account."""
    users = range(FIRST_PERSON, FIRST_PERSON + WITH_ACCOUNT)
    park.mongo.certifications.certifications.insert_many(record for user in users for record in records(user))
    for prefix in ("", "plain_"):
        park.mongo[f"{prefix}accounts"].accounts.insert_many(account(user, points) for user in users)
        park.mongo[f"{prefix}shifts"].members.insert_many(member(user) for user in users)


async def _prepare(settings: Settings) -> str:
    await prepare_mongod(settings.mongo_url.get_secret_value())
    await migrate_all(settings)
    for name, collections in (("plain_accounts", accounts.COLLECTIONS), ("plain_shifts", shifts.COLLECTIONS)):
        client, database = connect(settings, name)
        async with client:
            await migrate(database, collections)
    client, database = connect(settings, "gateway")
    async with client:
        # All policies are on; this key's limit is one that no round reaches.
        return await create_key(
            database, name="bench", scope="roblox", rate="999999999/s", created_by="the benchmark"
        )


def account(user: int, points: int) -> dict[str, Any]:
    """The document of somebody who has worked here for a while."""
    return {
        "id": user,
        "username": f"Person_{user}",
        "username_key": accounts.username_key(f"Person_{user}"),
        "points": points,
        "rankid": _RANKIDS[user % len(_RANKIDS)],
        "rank_version": 1,
        "certifications": _held(user),
        "created_at": datetime.now(UTC),
    }


def member(user: int) -> dict[str, Any]:
    """What shifts knows of this person."""
    return {"_id": user, "certifications": _held(user)}


def records(user: int) -> list[dict[str, Any]]:
    """What certifications knows of this person."""
    now = datetime.now(UTC)
    return [
        Record(user=user, code=code, held=True, version=1, granted_by="bench", granted_at=now).model_dump()
        for code in _held(user)
    ]


def _held(user: int) -> dict[str, Any]:
    return {code: {"held": True, "version": 1} for code in ("char", "tot", "mtp")[: user % 4]}


@contextmanager
def plain_stack(park: Park) -> Iterator[dict[str, int]]:
    """The plain stack; answers the port of the gateway with each hop."""
    env = {
        "PLAIN_MONGO_URL": park.settings.mongo_url.get_secret_value(),
        "PLAIN_NATS_URL": park.settings.nats_url.get_secret_value(),
        "PLAIN_TOKEN": park.token,
        "PLAIN_KEYS": json.dumps(
            {hashlib.sha256(park.key.encode()).hexdigest(): {"name": "bench", "scope": "roblox"}}
        ),
    }
    with ExitStack() as stack:
        upstreams = {}
        for service in ("accounts", "shifts"):
            port, _ = stack.enter_context(python_app(f"bench.plain.{service}", park.folder, env))
            upstreams[service] = f"http://127.0.0.1:{port}"
        env["PLAIN_UPSTREAMS"] = json.dumps(upstreams)
        ports = {}
        for hop in ("httpx", "aiohttp"):
            ports[hop], _ = stack.enter_context(python_app("bench.plain.gateway", park.folder, env, hop))
        yield ports
