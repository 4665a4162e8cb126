"""Events are stored in the transaction that makes them true, and published from there.

The relay marks an event sent only after JetStream acknowledged it; what a crash leaves behind is published
by the next relay that looks. An event may be published twice, never not at all.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pymongo import ASCENDING, IndexModel
from pymongo.errors import PyMongoError

from common import metrics
from common.bus import Bus
from common.events import Event
from common.mongo import Collection, Database, Document, Session, is_outage

logger = logging.getLogger(__name__)

OUTBOX = Collection(
    "outbox",
    indexes=(
        IndexModel(
            [("sent", ASCENDING), ("_id", ASCENDING)], name="unsent", partialFilterExpression={"sent": False}
        ),
        IndexModel(
            [("sent_at", ASCENDING)],
            name="forget_sent",
            expireAfterSeconds=int(timedelta(days=7).total_seconds()),
        ),
    ),
)

_BATCH = 256
_IN_FLIGHT = 64
_POLL_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 5.0


class Outbox:
    """The events of one service that are or were to be published."""

    def __init__(self, database: Database) -> None:
        self._rows = database[OUTBOX.name]
        self._service = database.name
        self._committed = asyncio.Event()

    async def add(self, session: Session, events: Sequence[Event]) -> None:
        """Store events in the caller's transaction; call `wake` once it is committed."""
        await self._rows.insert_many(
            [
                {
                    "_id": event.id,
                    "subject": event.SUBJECT,
                    "payload": event.model_dump_json().encode(),
                    "created_at": datetime.now(UTC),
                    "sent": False,
                }
                for event in events
            ],
            session=session,
        )

    def wake(self) -> None:
        """Publish now what was just committed, instead of at the relay's next look."""
        self._committed.set()

    async def relay(self, bus: Bus) -> None:
        """Publish what is unsent, oldest first, until cancelled."""
        pause = 0.1
        while True:
            self._committed.clear()
            try:
                rows = await self._unsent()
                sent = await self._publish(bus, rows)
            except PyMongoError as error:
                if not is_outage(error):
                    raise
                rows, sent = [], -1
            if sent < len(rows):
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            elif len(rows) < _BATCH:
                pause = 0.1
                await self._wait()

    async def flush(self, bus: Bus) -> None:
        """Publish what is unsent once more, before a stop; what fails stays for the next start."""
        await self._publish(bus, await self._unsent())

    async def observe(self) -> None:
        """Keep the metrics of depth and age up to date, until cancelled."""
        while True:
            try:
                oldest = await self._rows.find_one({"sent": False}, sort=[("_id", ASCENDING)])
                depth = await self._rows.count_documents({"sent": False}) if oldest else 0
            except Exception as error:
                if not is_outage(error):
                    raise
            else:
                age = (datetime.now(UTC) - oldest["created_at"]).total_seconds() if oldest else 0
                metrics.OUTBOX_UNSENT.labels(self._service).set(depth)
                metrics.OUTBOX_AGE.labels(self._service).set(age)
            await asyncio.sleep(_POLL_SECONDS)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._committed.wait()
        except TimeoutError:
            return

    async def _unsent(self) -> list[Document]:
        return await self._rows.find({"sent": False}).sort("_id", ASCENDING).limit(_BATCH).to_list()

    async def _publish(self, bus: Bus, rows: Sequence[Document]) -> int:
        sent: list[str] = []
        for start in range(0, len(rows), _IN_FLIGHT):
            part = rows[start : start + _IN_FLIGHT]
            results = await asyncio.gather(
                *(bus.publish(row["_id"], row["subject"], row["payload"]) for row in part),
                return_exceptions=True,
            )
            acknowledged = [row["_id"] for row, result in zip(part, results, strict=True) if result is None]
            if acknowledged:
                await self._rows.update_many(
                    {"_id": {"$in": acknowledged}}, {"$set": {"sent": True, "sent_at": datetime.now(UTC)}}
                )
                metrics.EVENTS_PUBLISHED.labels(self._service).inc(len(acknowledged))
            sent += acknowledged
            failed = [result for result in results if result is not None]
            if failed:
                logger.warning("%d events wait in the outbox: %s", len(failed), failed[0])
                break
        return len(sent)
