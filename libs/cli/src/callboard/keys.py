"""The commands about keys: the gateway's use cases on the database of the system at hand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from callboard.access import open_database
from callboard.acts import operator
from callboard.errors import CommandError
from common.settings import Settings
from gateway.errors import KeyProblem
from gateway.keys import create_key, list_keys, revoke_key, rotate_key
from gateway.models import Key, KeyScope


async def create(
    settings: Settings,
    name: str,
    scope: KeyScope,
    *,
    places: Sequence[int],
    networks: Sequence[str],
    lifetime: timedelta | None,
    rate: str | None,
) -> str:
    """Make a key and answer it. Raises CommandError."""
    expires_at = datetime.now(UTC) + lifetime if lifetime else None
    with _told_in_a_sentence():
        async with open_database(settings, "gateway") as database:
            return await create_key(
                database,
                name=name,
                scope=scope,
                places=places,
                networks=networks,
                expires_at=expires_at,
                rate=rate,
                created_by=operator(),
            )


async def all_keys(settings: Settings) -> list[Key]:
    """Every key there ever was, by name, the newest of a name last."""
    async with open_database(settings, "gateway") as database:
        return await list_keys(database)


async def rotate(settings: Settings, name: str, overlap: timedelta) -> str:
    """Make a successor and answer it; the old key stays valid for `overlap`. Raises CommandError."""
    with _told_in_a_sentence():
        async with open_database(settings, "gateway") as database:
            return await rotate_key(database, name, overlap, operator())


async def revoke(settings: Settings, name: str) -> None:
    """Let no key of this name open anything. Raises CommandError."""
    with _told_in_a_sentence():
        async with open_database(settings, "gateway") as database:
            await revoke_key(database, name, operator())


def state(key: Key) -> str:
    """What an operator calls the key's condition."""
    if key.revoked_at is not None:
        return "revoked"
    if not key.is_valid(datetime.now(UTC)):
        return "expired"
    return "valid" if key.current else "rotated"


@contextmanager
def _told_in_a_sentence() -> Iterator[None]:
    try:
        yield
    except KeyProblem as problem:
        raise CommandError(str(problem)) from None
