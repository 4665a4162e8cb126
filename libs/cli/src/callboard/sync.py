"""Asking for a walk through all members of the group, and following it to its end."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import entry_points

from accounts.models import CompletedSync, Sync
from accounts.repository import LONGEST_LEASE, Syncs
from callboard.access import open_database
from callboard.errors import CommandError
from common.group import load_group
from common.settings import Settings

_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 10.0
"""How long nobody may walk before it is said that nobody will; accounts looks every few seconds."""


async def sync(settings: Settings, advance: Callable[[Sync], None]) -> CompletedSync:
    """Have all ranks read again from where they are kept, and answer what came of it.

    `advance` is told how it stands. Raises CommandError when nobody does it.
    """
    _check_plugin(load_group(settings.config).plugins.ranking)
    async with open_database(settings, "accounts") as database:
        syncs = Syncs(database)
        await syncs.request()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            state = await syncs.find()
            if state.last and state.requested_at is None and state.began_at is None:
                return state.last
            now = datetime.now(UTC)
            if state.claimed_until and now < state.claimed_until <= now + LONGEST_LEASE:
                deadline = time.monotonic() + _PATIENCE_SECONDS
            advance(state)
            await asyncio.sleep(_LOOK_SECONDS)
    raise CommandError("Nothing reads the ranks: is accounts running? See `callboard status` and its log.")


def _check_plugin(name: str) -> None:
    for entry in entry_points(group="callboard.ranking", name=name):
        plugin = entry.load()
        if isinstance(plugin, type) and not hasattr(plugin, "members"):
            raise CommandError(f'The ranking plugin "{name}" keeps its ranks here: there is nothing to sync.')
