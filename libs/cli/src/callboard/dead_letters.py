"""Events that a service gave up on: what they are, and sending them again."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from callboard.access import open_database
from callboard.databases import DATABASES
from callboard.errors import CommandError
from common.app import background
from common.bus import DEAD_LETTERS, Bus
from common.settings import Settings


@dataclass(frozen=True)
class DeadLetter:
    """An event in the dead letters of `service`, and why it is there."""

    service: str
    id: str
    subject: str
    payload: bytes
    reason: str
    at: datetime


async def dead_letters(settings: Settings) -> AsyncIterator[DeadLetter]:
    """All of them, by service, oldest first."""
    for service in DATABASES:
        async with open_database(settings, service) as database:
            async for found in database[DEAD_LETTERS.name].find().sort("at"):
                yield DeadLetter(
                    service, found["_id"], found["subject"], found["payload"], found["reason"], found["at"]
                )


async def replay(settings: Settings) -> int:
    """Publish each dead letter again, and forget it once NATS has it; answers how many.

    Every service that handles such events gets it again, which changes nothing where it was handled.
    """
    letters = [letter async for letter in dead_letters(settings)]
    if not letters:
        return 0
    bus = Bus(settings, "callboard")
    async with background(bus.run):
        try:
            async with asyncio.timeout(10):
                while not bus.is_connected:  # noqa: ASYNC110 - the bus has no event for it
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise CommandError("NATS does not answer: is Callboard running?") from None
        for letter in letters:
            # Under its own id, JetStream would take it for a repeat of what it has stored.
            await bus.publish(f"replay-{secrets.token_hex(12)}", letter.subject, letter.payload)
            async with open_database(settings, letter.service) as database:
                await database[DEAD_LETTERS.name].delete_one({"_id": letter.id})
        await bus.close()
    return len(letters)
