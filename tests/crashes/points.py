"""The places where a process may die between two steps."""

from tests.support.machine import Change

NOT_PUBLISHED = "stored but not published"
NOT_MARKED = "published but not marked"
NOT_STORED = "shifts written, but not their events"
NOT_COMMITTED = "shifts and events written, but not committed"
NOT_ANSWERED = "committed but not answered"
NOT_ADDED = "ledger entry written, but not added to the total"
NOT_ACKNOWLEDGED = "ledger written but not acknowledged"
NOT_ALL = "some of a batch that was split committed, and not the others"
NOT_RANKED = "approving recorded, but no rank set"
NOT_TOLD = "rank set, but not recorded in accounts"
NOT_APPROVED = "rank set but approval not recorded"
NOT_KEPT = "upload begun, but its text not kept"
NOT_SUBMITTED = "text kept, but not recorded"
NOT_SHOWN = "application recorded, but not answered"
NOT_CONFIRMED = "approval recorded, but not answered"
NOT_KEYED = "certification and event written, but not the key of the request"
NOT_CERTIFIED = "certification, event and key written, but not committed"
NOT_SAID = "certification committed, but not answered"
NOT_TERMINATED = "dead letter written, but the event not ended"

APPLICATION_POINTS = (
    Change("applications.plugins.store:Store.publish", "die before", name=NOT_KEPT),
    Change("applications.plugins.store:Store.publish", "die after", name=NOT_SUBMITTED),
    Change("applications.service:transaction", "die after", name=NOT_SHOWN),
    Change("applications.service:transaction", "die after", name=NOT_CONFIRMED, skip=1),
)
CERTIFICATION_POINTS = (
    Change("common.idempotency:IdempotencyRecords.add", "die before", name=NOT_KEYED),
    Change("common.idempotency:IdempotencyRecords.add", "die after", name=NOT_CERTIFIED),
    Change("certifications.service:transaction", "die after", name=NOT_SAID),
)

# A group commit: the first transaction is that of the first request alone, the next that of those who waited.
CRASH_POINTS = (
    Change("common.bus:Bus.publish_all", "die before", name=NOT_PUBLISHED),
    Change("common.bus:Bus.publish_all", "die after", name=NOT_MARKED),
    Change("shifts.repository:Repository.add", "die after", name=NOT_STORED, skip=1),
    Change("common.outbox:Outbox.add", "die after", name=NOT_COMMITTED, skip=1),
    Change("shifts.service:transaction", "die after", name=NOT_ANSWERED, skip=1),
    Change("pymongo.asynchronous.collection:AsyncCollection.bulk_write", "die after", name=NOT_ADDED),
    Change("nats.aio.msg:Msg.ack", "die before", name=NOT_ACKNOWLEDGED),
    # The first is that of the whole batch, which a locked person fails.
    Change("accounts.service:transaction", "die after", name=NOT_ALL, skip=6),
    Change("nats.aio.msg:Msg.term", "die before", name=NOT_TERMINATED),
    Change("common.outgoing.peer:Peer.post", "die before", name=NOT_RANKED),
    Change("accounts.plugins.local:LocalRanking.set", "die after", name=NOT_TOLD),
    Change("common.outgoing.peer:Peer.post", "die after", name=NOT_APPROVED),
    *APPLICATION_POINTS,
    *CERTIFICATION_POINTS,
)
