"""Acts that are done once, however often a caller sends them with the same Idempotency-Key.

The record of a key is written in the act's own transaction, so that there is one exactly where the act was done; a
refusal leaves none. It holds the ids of what the act made, from which a service builds the same answer again. Keys of
different callers never meet: a record belongs to the name of the caller's API key.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel
from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError, PyMongoError

from common.errors import InvalidQuery, KeyReused, StillRunning
from common.events import new_id
from common.logs import key_name
from common.mongo import Collection, Database, Document, Documents, Session
from common.storage.limits import StorageLimits

if TYPE_CHECKING:  # the operator's command knows the collection, but needs no server
    from fastapi import Request

REMEMBERED = timedelta(days=7)

_MAX_LENGTH = 255

IDEMPOTENCY = Collection(
    "idempotency",
    indexes=(
        IndexModel(
            [("at", ASCENDING)], name="forget_old", expireAfterSeconds=int(REMEMBERED.total_seconds())
        ),
    ),
)

REPLAYED = {"Idempotent-Replayed": "true"}
"""The header of an answer to a request that repeats an earlier one."""

IDEMPOTENCY_PARAMETER: Mapping[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Made once for each act, and sent again with each retry: the act is done once.",
    "schema": {"type": "string", "maxLength": _MAX_LENGTH},
}
REPLAYED_RESPONSE: dict[str, Any] = {
    "headers": {
        "Idempotent-Replayed": {
            "description": "an earlier request with the same Idempotency-Key did this",
            "schema": {"const": "true"},
        }
    }
}
"""What routes with an Idempotency-Key add to their OpenAPI description: to `parameters`, and to the response 200."""

Made = Mapping[str, Any]
"""What an act made: ids and names, never a text or a secret URL."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that can be recognised when it comes again; `caller` is the name of its API key.

    Requests that ask for the same have the same `fingerprint`.
    """

    caller: str
    idempotency_key: str
    fingerprint: str

    @property
    def id(self) -> str:
        """One for each caller and key; names of API keys have no colon."""
        return f"{self.caller}:{self.idempotency_key}"


def read_idempotency_key(request: "Request") -> str | None:
    """The request's Idempotency-Key; an empty one counts as absent. Raises InvalidQuery."""
    given = request.headers.getlist("idempotency-key")
    if len(given) > 1:
        raise InvalidQuery("Idempotency-Key is given more than once")
    if not given or not given[0]:
        return None
    if len(given[0]) > _MAX_LENGTH:
        raise InvalidQuery(f"Idempotency-Key must have at most {_MAX_LENGTH} characters")
    return given[0]


def read_attempt(request: "Request", *given: BaseModel) -> Attempt | None:
    """The request as an attempt at what its path and the `given` parameters ask for; None without an Idempotency-Key.

    Raises InvalidQuery.
    """
    idempotency_key = read_idempotency_key(request)
    if idempotency_key is None:
        return None
    # Without defaults, a parameter that a later version adds leaves the fingerprints of others as they are.
    asked = [model.model_dump(mode="json", exclude_defaults=True) for model in given]
    text = json.dumps([request.scope["path"], asked], sort_keys=True)
    return Attempt(key_name.get() or "", idempotency_key, sha256(text.encode()).hexdigest())


class IdempotencyRecords:
    """The Idempotency-Keys that one service was given in the last seven days."""

    def __init__(self, database: Database, limits: StorageLimits) -> None:
        self._records = database[IDEMPOTENCY.name]
        self._limits = limits

    async def find(self, attempt: Attempt | None, session: Session | None = None) -> Made | None:
        """What an earlier attempt made; None for a first one. Raises KeyReused.

        Look first in the act's transaction: of two attempts at once, one then finds what the other made.
        """
        found = await self._find(attempt, session) if attempt else None
        return found.get("made") if found else None

    async def add(self, session: Session, attempt: Attempt | None, made: Made) -> None:
        """Remember in the act's transaction what it made."""
        if attempt:
            record = {"fingerprint": attempt.fingerprint, "at": datetime.now(UTC), "made": made}
            await self._records.replace_one({"_id": attempt.id}, record, upsert=True, session=session)

    @asynccontextmanager
    async def claim(self, attempt: Attempt | None) -> AsyncIterator["Claim"]:
        """Keep other attempts away from an act that has an effect outside its transaction.

        Where the claim says what an earlier attempt `made`, there is nothing to do. Otherwise do the act, and call
        `finish` in the transaction that ends it. An act that raises leaves nothing behind. Raises KeyReused, and
        StillRunning when another attempt takes too long.
        """
        token = new_id()
        made = await self._begin(attempt, token) if attempt else None
        try:
            yield Claim(self._records, attempt, token, made)
        except BaseException:
            if attempt:
                with suppress(PyMongoError):  # then it stays pending for a minute
                    unfinished = {"_id": attempt.id, "claimed_by": token, "made": {"$exists": False}}
                    await self._records.delete_one(unfinished)
            raise

    async def _begin(self, attempt: Attempt, token: str) -> Made | None:
        limits = self._limits
        deadline = time.monotonic() + limits.same_act_seconds
        while True:
            now = datetime.now(UTC)
            broken_off = {
                "made": {"$exists": False},
                "fingerprint": attempt.fingerprint,
                "at": {"$lte": now - timedelta(seconds=limits.abandoned_act_seconds)},
            }
            free = {"_id": attempt.id, "$or": [{"at": {"$lte": now - REMEMBERED}}, broken_off]}
            pending = {"fingerprint": attempt.fingerprint, "at": now, "claimed_by": token}
            try:
                await self._records.replace_one(free, pending, upsert=True)
            except DuplicateKeyError:  # there is a record, and it is not free
                if (found := await self._find(attempt)) and "made" in found:
                    return cast(Made, found["made"])
            else:
                return None
            if time.monotonic() >= deadline:
                raise StillRunning
            await asyncio.sleep(limits.same_act_poll_seconds)

    async def _find(self, attempt: Attempt, session: Session | None = None) -> Document | None:
        remembered = {"_id": attempt.id, "at": {"$gt": datetime.now(UTC) - REMEMBERED}}
        found = await self._records.find_one(remembered, session=session)
        if found and found["fingerprint"] != attempt.fingerprint:
            raise KeyReused
        return found


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do an act alone; `made` is what an earlier attempt made."""

    _records: Documents
    _attempt: Attempt | None
    _token: str
    made: Made | None

    async def finish(self, session: Session, made: Made) -> None:
        """Remember in the act's transaction what it made.

        Raises StillRunning when this attempt took so long that another one took the act over.
        """
        if self._attempt:
            mine = {"_id": self._attempt.id, "claimed_by": self._token}
            record = {"$set": {"made": made, "at": datetime.now(UTC)}}
            if not (await self._records.update_one(mine, record, session=session)).matched_count:
                raise StillRunning
