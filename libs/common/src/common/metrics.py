"""What Prometheus can see. Labels hold routes and names, never a query, a key or a token."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUESTS = Counter(
    "callboard_requests",
    "Requests answered; the gateway's with the name of the key.",
    ["service", "method", "route", "status", "key"],
)
REQUEST_SECONDS = Histogram(
    "callboard_request_seconds",
    "Seconds from a request to its answer.",
    ["service", "route"],
    buckets=_SECONDS,
)
UPSTREAM_SECONDS = Histogram(
    "callboard_upstream_seconds",
    "Seconds that a request spent behind the gateway.",
    ["upstream"],
    buckets=_SECONDS,
)
UPSTREAM_FAILURES = Counter(
    "callboard_upstream_failures",
    "Attempts to call a service that it did not answer: busy, unreachable, lost, silent (another was asked), slow, or refused for our token.",
    ["upstream", "reason"],
)
REPLICAS_OPEN = Gauge(
    "callboard_upstream_replicas_open",
    "Replicas of a service that do not answer, so that no request is sent there until they do.",
    ["upstream"],
)
PROVIDER_SECONDS = Histogram(
    "callboard_provider_seconds",
    "Seconds that a request to another company took: answered, limited (429), failed, abandoned.",
    ["provider", "outcome"],
    buckets=_SECONDS,
)

OUTBOX_UNSENT = Gauge("callboard_outbox_unsent", "Events that wait to be published.", ["service"])
OUTBOX_AGE = Gauge("callboard_outbox_oldest_seconds", "Age of the oldest event that waits.", ["service"])
OUTBOX_REFUSED = Gauge(
    "callboard_outbox_refused", "Events that NATS refuses one by one, while it takes others.", ["service"]
)
BUS_TROUBLE = Gauge(
    "callboard_bus_trouble",
    "1 while something is wrong between a service and NATS: connection, stream, consumer, paused (the consumer), "
    "unhandled (it asks for events that no handler takes).",
    ["service", "what"],
)
EVENTS_PUBLISHED = Counter("callboard_events_published", "Events that NATS acknowledged.", ["service"])
EVENTS_HANDLED = Counter(
    "callboard_events_handled", "Events handled and acknowledged.", ["service", "subject"]
)
EVENT_DELAY = Histogram(
    "callboard_event_delay_seconds",
    "Seconds from when an event occurred until it was handled.",
    ["service", "subject"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600),
)
EVENTS_REDELIVERED = Counter("callboard_events_redelivered", "Events delivered again.", ["service"])
EVENTS_UNCHANGED = Counter(
    "callboard_events_unchanged",
    "Events that changed nothing: repeated, or older than what is known.",
    ["service"],
)
DEAD_LETTERS = Counter("callboard_dead_letters", "Events put into the dead letters.", ["service"])
NOTIFICATIONS = Counter(
    "callboard_notifications",
    "News by what became of them: sent, or expired (a day old before they could be sent).",
    ["notifier", "outcome"],
)
NOTIFIER_REFUSED = Gauge(
    "callboard_notifier_refused",
    "1 once a notifier was turned away, and tells nothing until the next start.",
    ["notifier"],
)
SHIFTS_REPEATED = Counter("callboard_shifts_repeated", "Requests that repeated a recorded shift.")

REFRESHES = Counter(
    "callboard_rank_refreshes",
    "Ranks and names read again in the background: changed, unchanged, failed, dropped (too many waited).",
    ["outcome"],
)
REFRESHES_WAITING = Gauge(
    "callboard_rank_refreshes_waiting", "Users whose rank or name waits to be read again."
)
SYNC_LATE = Gauge(
    "callboard_sync_late_seconds", "How much later than ranks.refresh_after says the last sync began."
)
