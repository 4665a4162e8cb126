"""How long the bus and the relay wait, and how much they take at a time."""

from common.limits import Limits, Wait


class BusLimits(Limits):
    """The limits of a service's connection to NATS, its consumer and its relay."""

    batch: int = 256
    """Events that are published together, or asked for at a time."""

    connect_seconds: Wait = 2.0
    answer_seconds: Wait = 2.0
    """For what JetStream is asked: about the stream, about a consumer."""
    publish_seconds: Wait = 2.0
    look_seconds: float = 1.0
    """Between two looks at connection, stream and consumer."""
    pull_seconds: float = 5.0
    """How long a request for events stays open, and so how soon one that was lost is made again."""
    ack_wait_seconds: Wait = 30.0
    """After which NATS delivers an event again that was not acknowledged."""
    finish_seconds: Wait = 1.0
    """For what was begun when a service is told to stop."""

    first_pause_seconds: float = 0.25
    """Before the next attempt after a refusal; twice as long each time."""
    longest_pause_seconds: float = 10.0
    relay_poll_seconds: float = 2.0
    """Between two looks of the relay for events that others left in the outbox."""
    relay_first_pause_seconds: float = 0.1
    relay_longest_pause_seconds: float = 5.0


class ConsumerLimits(Limits):
    """The limits of how a service handles events."""

    locked_seconds: Wait = 0.2
    """How long a batch waits for a document that another transaction holds, before its events are tried alone."""
    alone_at_once: int = 8
    """People whose events are tried at the same time, once their batch failed."""
    failures_to_dead_letter: int = 10

    first_pause_seconds: float = 0.5
    """Before the next attempt during an outage; twice as long each time."""
    longest_pause_seconds: float = 5.0
    longest_put_off_seconds: float = 30.0
    """For one event whose own attempts fail, beginning with `first_pause_seconds`."""

    left_to_others_seconds: float = 1.0
    """For an event that only replicas of another version handle; twice as long each time after the first few."""
    longest_left_to_others_seconds: float = 3600.0
    deliveries_before_it_grows: int = 5
