"""Keys: making, rotating and revoking them, and knowing them on the hot path.

A key is `cb_<scope>_` and 256 random bits. Only its SHA-256 is stored: for random bits, a slow hash would add
nothing. Every change is recorded in the collection `audit`, in the same transaction.
"""

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from pydantic import ValidationError

from common.coalesce import Coalescer
from common.errors import Unavailable
from common.mongo import Database, Session, is_outage, transaction
from gateway.errors import InvalidKeyField, NewerKey, NoSuchKey, WrongKey
from gateway.models import ROBLOX, SCOPES, Key, KeyScope
from gateway.repository import COLLECTIONS, Repository

__all__ = ["COLLECTIONS", "Key", "KeyTable", "create_key", "list_keys", "revoke_key", "rotate_key"]

logger = logging.getLogger(__name__)

_FORMAT = re.compile(r"cb_[a-z][a-z0-9_]{0,31}_[A-Za-z0-9_-]{43}", re.ASCII)
_VISIBLE_CHARACTERS = 6

_READ_EVERY_SECONDS = 0.5
_SECONDS_BETWEEN_READS = 0.05
_READ_AGAIN = timedelta(seconds=10)
"""Longer than a transaction takes: what is dated earlier may still become visible later."""
_READ_ALL_EVERY_SECONDS = 60.0
_GRACE_SECONDS = 300.0
_NOTE_USE_EVERY_SECONDS = 60.0


async def create_key(
    database: Database,
    *,
    name: str,
    scope: KeyScope,
    places: Iterable[int] = (),
    networks: Iterable[str] = (),
    expires_at: datetime | None = None,
    rate: str | None = None,
    created_by: str,
) -> str:
    """Make a key and answer it; it cannot be read again.

    `places` and `networks` (CIDR) limit where it may be used from, `rate` ("500/min") how often. Raises
    NameTaken and InvalidKeyField.
    """
    if scope not in SCOPES:
        raise InvalidKeyField("scope", f"must be {', '.join(SCOPES[:-1])} or {SCOPES[-1]}")
    places = list(places)
    if places and scope != ROBLOX:
        raise InvalidKeyField(
            "places",
            f"only keys of scope {ROBLOX} can be limited to places; one of scope {scope} is used outside of them",
        )
    limits: dict[str, Any] = {
        "places": places,
        "networks": list(networks),
        "expires_at": expires_at,
        "rate": rate,
    }
    secret, key = _new_key(name=name, scope=scope, created_by=created_by, **limits)
    repository = Repository(database)

    async def work(session: Session) -> None:
        await repository.add(session, key)
        await repository.note(
            session,
            at=key.created_at,
            by=created_by,
            act="key_create",
            text=f"Made the key {name} ({key.prefix}…) of scope {scope}.",
            name=name,
            prefix=key.prefix,
            scope=scope,
            **limits,
        )

    await transaction(database, work)
    return secret


async def list_keys(database: Database) -> list[Key]:
    """Every key there ever was, revoked and expired ones included; by name, the newest of a name last."""
    return await Repository(database).all()


async def rotate_key(database: Database, name: str, overlap: timedelta, by: str) -> str:
    """Make a key that takes the place of the current one of this name, and answer it.

    The old one stays valid for `overlap`. What limits the old one limits the new one, which lives as long as
    the old one was made to live. Raises NoSuchKey and NewerKey.
    """
    repository = Repository(database)

    async def work(session: Session) -> str:
        old = await repository.current(session, name)
        if old is None:
            raise NoSuchKey(name)
        if old.scope not in SCOPES:  # what limits it may be unknown here, and would be lost
            raise NewerKey(name)
        now = datetime.now(UTC)
        ends = min(now + overlap, old.expires_at) if old.expires_at else now + overlap
        secret, new = _new_key(
            **old.model_dump(include={"name", "scope", "places", "networks", "rate"}),
            expires_at=now + (old.expires_at - old.created_at) if old.expires_at else None,
            created_by=by,
        )
        await repository.succeed(session, old, ends)
        await repository.add(session, new)
        await repository.note(
            session,
            at=now,
            by=by,
            act="key_rotate",
            text=f"Made a successor ({new.prefix}…) of the key {name} ({old.prefix}…), valid until "
            f"{ends:%Y-%m-%d %H:%M} UTC.",
            name=name,
            prefix=new.prefix,
            old_prefix=old.prefix,
            old_expires_at=ends,
        )
        return secret

    return await transaction(database, work)


async def revoke_key(database: Database, name: str, by: str) -> None:
    """Let no key of this name open anything, those that a rotation left valid included. Raises NoSuchKey."""
    repository = Repository(database)

    async def work(session: Session) -> None:
        now = datetime.now(UTC)
        if not await repository.revoke(session, name, now):
            raise NoSuchKey(name)
        await repository.note(
            session, act="key_revoke", at=now, by=by, text=f"Revoked the key {name}.", name=name
        )

    await transaction(database, work)


def _new_key(*, scope: str, **fields: Any) -> tuple[str, Key]:
    lead = f"cb_{scope}_"
    secret = lead + secrets.token_urlsafe(32)
    try:
        key = Key(
            hash=_hash(secret),
            prefix=secret[: len(lead) + _VISIBLE_CHARACTERS],
            scope=scope,
            created_at=datetime.now(UTC),
            **fields,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidKeyField(str(first["loc"][0]), first["msg"].removeprefix("Value error, ")) from None
    return secret, key


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


class KeyTable:
    """The keys in memory, at most a second behind the database.

    While the database is away, keys that were known before pass for five minutes.
    """

    def __init__(self, database: Database, *, grace_seconds: float = _GRACE_SECONDS) -> None:
        self._repository = Repository(database)
        self._grace_seconds = grace_seconds
        self._keys: dict[bytes, Key] = {}
        self._latest_change: datetime | None = None
        self._read_at = self._all_read_at = float("-inf")
        self._reads = Coalescer[None, None](self._read, limit=1_000_000)
        self._use_noted_at: dict[bytes, float] = {}
        self._used: set[bytes] = set()

    async def find(self, secret: str) -> Key:
        """The key that this is. Raises WrongKey, and Unavailable when the database is away for too long."""
        if not _FORMAT.fullmatch(secret):
            raise WrongKey
        digest = _hash(secret)
        key = self._keys.get(digest)
        if key is None:  # it may be a moment old
            await self._refresh_for_request()
            key = self._keys.get(digest)
        now = time.monotonic()
        if now - self._read_at > self._grace_seconds:
            raise Unavailable("database")
        # The dict cannot be probed by timing, as nobody can steer a SHA-256; this comparison cannot either.
        if key is None or not hmac.compare_digest(key.hash, digest) or not key.is_valid(datetime.now(UTC)):
            raise WrongKey
        if now - self._use_noted_at.get(digest, float("-inf")) >= _NOTE_USE_EVERY_SECONDS:
            self._use_noted_at[digest] = now
            self._used.add(digest)
        return key

    async def refresh(self) -> None:
        """Read what was changed until now; calls at the same time share one reading."""
        await self._reads.submit(None)

    async def run(self) -> None:
        """Keep up with the database, until cancelled."""
        is_away = False
        while True:
            await asyncio.sleep(_READ_EVERY_SECONDS)
            try:
                await self.refresh()
                await self._write_use()
            except Exception as error:
                if not is_outage(error):
                    raise
                if not is_away:
                    logger.warning("MongoDB is away; known keys pass for %d s", self._grace_seconds)
                is_away = True
            else:
                is_away = False

    async def _refresh_for_request(self) -> None:
        try:
            await self.refresh()
        except Exception as error:
            if not is_outage(error):
                raise
            raise Unavailable("database") from error

    async def _read(self, askers: Sequence[None]) -> Sequence[None]:
        started = time.monotonic()
        if (pause := self._read_at + _SECONDS_BETWEEN_READS - started) > 0:
            await asyncio.sleep(pause)
            started += pause
        since = None
        # Now and then all, as a server whose clock was ahead may have dated a change later than those that follow.
        if self._latest_change and started - self._all_read_at < _READ_ALL_EVERY_SECONDS:
            since = self._latest_change - _READ_AGAIN
        changed, latest = await self._repository.changed_since(since)
        known: dict[bytes, Key | None] = changed if since is None else {**self._keys, **changed}
        self._keys = {digest: key for digest, key in known.items() if key is not None}
        if since is None:
            self._all_read_at = started
        self._latest_change = latest or self._latest_change
        self._read_at = started
        return askers

    async def _write_use(self) -> None:
        if not self._used:
            return
        used, self._used = self._used, set()
        try:
            await self._repository.note_use(used, datetime.now(UTC))
        except BaseException:
            self._used |= used
            raise
