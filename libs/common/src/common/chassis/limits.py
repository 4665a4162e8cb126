"""How long a call between gateway and services takes, so that whoever answers ends before whoever asks; and a stop."""

from typing import Self

from pydantic import model_validator

from common.limits import Limits, Wait, must_be_below


class HopLimits(Limits):
    """What the gateway and all services know of each other's limits."""

    request_seconds: Wait = 10.0
    """How long the gateway waits for a service, unless `routes.toml` gives a route another time."""
    rank_read_seconds: Wait = 2.0
    """How long accounts tries to read a rank."""
    rank_set_seconds: Wait = 3.0
    """How long accounts tries to set a rank."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        must_be_below(
            ("reading and setting a rank", self.rank_read_seconds + self.rank_set_seconds),
            ("the gateway's time limit", self.request_seconds),
        )
        return self


class ChassisLimits(Limits):
    """How a process stops."""

    drain_seconds: float = 3.0
    """How long a service that stops still answers callers that keep connections open."""
    finish_seconds: Wait = 10.0
    """For requests that are under way when their callers were told to go."""
    flush_seconds: Wait = 2.0
    """For events to leave the outbox; what stays goes at the next start."""
    trace_seconds: Wait = 2.0
    """For spans to reach the collector."""
