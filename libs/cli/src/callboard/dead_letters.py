"""Events that a service gave up on: what they are, sending them again, and dropping those worth nothing."""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from callboard.access import open_database, open_databases
from callboard.acts import record
from callboard.errors import CommandError
from callboard.jetstream import open_jetstream
from callboard.services import DATABASES, SERVICES
from common.dead_letters import DEAD_LETTERS
from common.mongo import Session, transaction
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
    Raises CommandError.
    """
    letters = [letter async for letter in dead_letters(settings)]
    if not letters:
        return 0
    async with open_databases(settings) as databases, open_jetstream(settings) as jetstream:
        for letter in letters:
            # Under its own id, JetStream would take it for a repeat of what it has stored.
            headers = {"Nats-Msg-Id": f"replay-{secrets.token_hex(12)}"}
            await jetstream.publish(letter.subject, letter.payload, headers=headers)
            await databases[letter.service][DEAD_LETTERS.name].delete_one({"_id": letter.id})
    return len(letters)


async def drop(settings: Settings, service: str, ids: Sequence[str]) -> None:
    """Forget these dead letters of the service for good, all or none; the gateway's audit keeps which they were.

    What a letter tells of is as true as before: `verify` still finds a shift that is in no ledger. Raises
    CommandError that names those that are not there.
    """
    if service not in SERVICES:
        raise CommandError(f"There is no service {service}; there are: {', '.join(SERVICES)}.")
    async with open_databases(settings) as databases:
        letters = databases[service][DEAD_LETTERS.name]

        async def work(session: Session) -> None:
            wanted = {"_id": {"$in": list(ids)}}
            found = {letter["_id"]: letter async for letter in letters.find(wanted, session=session)}
            if missing := [one for one in ids if one not in found]:
                raise CommandError(
                    f"{service} has no dead letter {', '.join(missing)}: nothing was dropped. "
                    "`callboard dead-letters list` shows which it has."
                )
            for one in found.values():
                await record(
                    databases["gateway"],
                    "drop",
                    f"Dropped the dead letter {one['_id']} of {service}: {one['reason']}",
                    session=session,
                    act_id=f"drop:{service}:{one['_id']}:{one['at']:%Y%m%dT%H%M%S.%f}",
                    name=one["_id"],
                    service=service,
                    subject=one["subject"],
                )
            await letters.delete_many(wanted, session=session)

        await transaction(databases[service], work)
