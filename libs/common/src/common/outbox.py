"""Events are stored in the transaction that makes them true, and published from there.

The relay marks an event sent only after JetStream acknowledged it; what a crash leaves behind is published
by the next relay that looks. An event may be published twice, never not at all.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pymongo import ASCENDING, IndexModel
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from common import metrics
from common.errors import Unavailable
from common.events import Event
from common.logs import LogThrottle
from common.mongo import Collection, Database, Document, Session, answer_seconds, is_outage
from common.tracing import traceparent

if TYPE_CHECKING:  # the operator's command knows outboxes, but needs no client of NATS
    from common.bus import Bus

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


class Outbox:
    """The events of one service that are or were to be published."""

    def __init__(self, database: Database) -> None:
        self._rows = database[OUTBOX.name]
        # Nobody waits for the journal here: a mark that is lost makes an event come twice, no more.
        self._marks = database.get_collection(OUTBOX.name, write_concern=WriteConcern(w=1))
        self._service = database.name
        self._answer_seconds = answer_seconds(database) or math.inf
        self._added: dict[str, float] = {}
        self._committed = asyncio.Event()
        self._log_throttle = LogThrottle()

    async def add(
        self, session: Session, events: Sequence[Event], traces: Mapping[str, str | None] | None = None
    ) -> None:
        """Store events in the caller's transaction; call `wake` once it is committed.

        An event belongs to the trace of this context. In a transaction for many requests, `traces` says which
        `traceparent` each event's id has.
        """
        rows: list[Document] = [
            {
                "_id": event.id,
                "subject": event.SUBJECT,
                "payload": event.model_dump_json().encode(),
                "created_at": datetime.now(UTC),
                "sent": False,
            }
            for event in events
        ]
        for row in rows:
            if trace := traces.get(row["_id"]) if traces else traceparent.get():
                row["traceparent"] = trace
        await self._rows.insert_many(rows, session=session)
        self._added |= dict.fromkeys((event.id for event in events), time.monotonic())

    def wake(self) -> None:
        """Publish now what was just committed, instead of at the relay's next look."""
        self._committed.set()

    async def relay(self, bus: "Bus") -> None:
        """Publish until cancelled: what is added here once it is committed, all else at a slow look."""
        limits, throttle = bus.limits, LogThrottle()
        pause = limits.relay_first_pause_seconds
        while True:
            try:
                await self.flush(bus)
                deadline = asyncio.get_running_loop().time() + limits.relay_poll_seconds
                while await self._is_woken(deadline):
                    rows = await self._just_committed(limits.batch)
                    sent, _, failure = await self._publish(bus, rows)
                    await self._mark(sent)
                    if failure is not None:
                        raise Unavailable("nats") from failure
                    if len(rows) == limits.batch:
                        self.wake()  # there may be more
                pause = limits.relay_first_pause_seconds
            except (PyMongoError, Unavailable) as error:
                if isinstance(error, PyMongoError) and not is_outage(error):
                    raise
                reason = str(error.__cause__ or error)
                if throttle.allows(reason):
                    logger.warning("events wait in the outbox: %s", reason)
                await asyncio.sleep(pause)
                pause = min(pause * 2, limits.relay_longest_pause_seconds)

    async def flush(self, bus: "Bus") -> None:
        """Publish what is unsent, oldest first. Raises Unavailable; the rest stays for the next look.

        Of relays that are at the same events, the one that marks the first of a batch goes on, and the others leave it
        the rest. Should each find its first marked by another, the next look of any of them goes on.
        """
        self._forget_finished()
        last, refused, batch = "", dict[str, str](), bus.limits.batch
        while True:
            rows = (
                await self._rows.find({"sent": False, "_id": {"$gt": last}}, batch_size=batch)
                .sort("_id", ASCENDING)
                .limit(batch)
                .to_list()
            )
            if not last:
                await self._tell_depth(rows, batch)
            sent, of_these, failure = await self._publish(bus, rows)
            is_first = not sent or await self._mark(sent[:1]) == 1
            await self._mark(sent[1:])
            refused |= of_these
            if failure is not None:
                raise Unavailable("nats") from failure
            if len(rows) < batch or not is_first:
                break
            last = rows[-1]["_id"]

        metrics.OUTBOX_REFUSED.labels(self._service).set(len(refused))
        if refused:
            event = next(iter(refused))
            text = f"{len(refused)} in all stay in the outbox; the first is {event}: {refused[event]}"
            if self._log_throttle.allows(text):
                logger.error("NATS refuses events, and takes others: %s", text)

    def _forget_finished(self) -> None:
        # By now, what was added before is committed, so that a look finds it, or never will be.
        latest = time.monotonic() - self._answer_seconds
        self._added = {event_id: at for event_id, at in self._added.items() if at > latest}

    async def _tell_depth(self, rows: Sequence[Document], batch: int) -> None:
        depth = len(rows) if len(rows) < batch else await self._rows.count_documents({"sent": False})
        age = (datetime.now(UTC) - rows[0]["created_at"]).total_seconds() if rows else 0
        metrics.OUTBOX_UNSENT.labels(self._service).set(depth)
        metrics.OUTBOX_AGE.labels(self._service).set(age)

    async def _is_woken(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self._committed.wait()
        except TimeoutError:
            return False
        self._committed.clear()
        return asyncio.get_running_loop().time() < deadline

    async def _just_committed(self, batch: int) -> list[Document]:
        if not self._added:
            return []
        # By id: among what is unsent, MongoDB passes all that was marked sent since its last checkpoint.
        # Measured, that took 20 ms after 20,000 events.
        wanted = {"_id": {"$in": list(self._added)}, "sent": False}
        return await self._rows.find(wanted, batch_size=batch, hint="_id_").limit(batch).to_list()

    async def _publish(
        self, bus: "Bus", rows: Sequence[Document]
    ) -> tuple[list[str], dict[str, str], Exception | None]:
        """The ids of those that were published; why NATS refuses single ones; and why it took none at all."""
        if not rows:
            return [], {}, None
        errors = await bus.publish_all(
            [(row["_id"], row["subject"], row["payload"], row.get("traceparent")) for row in rows]
        )
        sent = [row["_id"] for row, error in zip(rows, errors, strict=True) if error is None]
        metrics.EVENTS_PUBLISHED.labels(self._service).inc(len(sent))
        failed = [(row, error) for row, error in zip(rows, errors, strict=True) if error is not None]
        refused = {
            row["_id"]: f"{row['subject']}: {error}" for row, error in failed if bus.is_own_refusal(error)
        }
        await self._note_refused(rows, refused)
        # What was not answered while others were is tried again at the next look.
        others = [error for row, error in failed if row["_id"] not in refused]
        return sent, refused, others[0] if others and not sent else None

    async def _note_refused(self, rows: Sequence[Document], refused: Mapping[str, str]) -> None:
        """Keep the reason with the event, where `callboard doctor` finds it."""
        for row in rows:
            reason = refused.get(row["_id"])
            if reason is not None:
                self._added.pop(row["_id"], None)
                if row.get("refused") != reason:
                    await self._marks.update_one({"_id": row["_id"]}, {"$set": {"refused": reason}})

    async def _mark(self, sent: Sequence[str]) -> int:
        """Mark these sent; answers how many no other relay had marked."""
        if not sent:
            return 0
        marks = {"$set": {"sent": True, "sent_at": datetime.now(UTC)}}
        found = await self._marks.update_many({"_id": {"$in": list(sent)}, "sent": False}, marks, hint="_id_")
        for event_id in sent:
            self._added.pop(event_id, None)
        return found.modified_count
