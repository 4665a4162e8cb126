"""The events that a service gave up on, kept for the operator."""

from datetime import UTC, datetime

from common.mongo import Collection, Documents

DEAD_LETTERS = Collection("dead_letters")


async def keep(letters: Documents, event: str, subject: str, payload: bytes, reason: str) -> None:
    """Keep an event by its id, with the reason; one that is there already has the newer reason from then on."""
    letter = {"subject": subject, "payload": payload, "reason": reason, "at": datetime.now(UTC)}
    await letters.update_one({"_id": event}, {"$set": letter}, upsert=True)
