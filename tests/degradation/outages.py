"""Taking a part of the system away for a while."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.machine import Machine

KILLED, FROZEN = AWAY = ("killed", "frozen")
"""Refusing connections; or taking them, and never answering."""


@asynccontextmanager
async def away(park: Machine, how: str, *names: str) -> AsyncIterator[None]:
    """These are away while the block runs."""
    if how == KILLED:
        await park.kill(*names)
    else:
        park.freeze(*names)
    try:
        yield
    finally:
        if how == KILLED:
            await park.start(*names)
        else:
            park.thaw(*names)
