"""A mongod of our own becomes a primary that knows its user."""

import asyncio
from urllib.parse import urlsplit

from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from callboard.errors import CommandError
from callboard.servers import REPLICA_SET, listens
from common.mongo import Document

_NOT_AUTHENTICATED = 18
_ALREADY_INITIALIZED = 23


async def prepare_mongod(url: str, seconds: float = 60, *, member: str | None = None) -> None:
    """Wait for a mongod of this machine to listen, and make it a primary that knows the user. Safe to repeat.

    `member` is the host and port that others reach it at, where it is not that of `url`. Raises CommandError when
    that takes too long.
    """
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port}"
    member = member or address
    try:
        async with asyncio.timeout(seconds):
            while not listens(parts.port or 0):  # noqa: ASYNC110 - it is another process that starts
                await asyncio.sleep(0.02)
            client: AsyncMongoClient[Document] = AsyncMongoClient(
                address, directConnection=True, username=parts.username, password=parts.password
            )
            async with client:
                try:
                    config = (await client.admin.command("replSetGetConfig"))["config"]
                except OperationFailure as error:
                    if error.code != _NOT_AUTHENTICATED:
                        raise
                    await _initiate(address, member, parts.username or "", parts.password or "")
                else:
                    if config["members"][0]["host"] != member:  # another port than last time
                        config["members"][0]["host"] = member
                        config["version"] += 1
                        await client.admin.command("replSetReconfig", config, force=True)
                await _wait_for_primary(client)
    except TimeoutError:
        raise CommandError(f"MongoDB did not get ready within {seconds:.0f} s; see mongod.log.") from None


async def _initiate(address: str, member: str, user: str, password: str) -> None:
    """Make the replica set and its first user; a mongod without users lets us, from this machine."""
    client: AsyncMongoClient[Document] = AsyncMongoClient(address, directConnection=True)
    async with client:
        members = [{"_id": 0, "host": member}]
        try:
            await client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
        except OperationFailure as error:
            if error.code != _ALREADY_INITIALIZED:
                raise
        await _wait_for_primary(client)
        await client.admin.command("createUser", user, pwd=password, roles=["root"])


async def _wait_for_primary(client: AsyncMongoClient[Document]) -> None:
    while True:
        if (await client.admin.command("hello"))["isWritablePrimary"]:
            return
        await asyncio.sleep(0.02)
