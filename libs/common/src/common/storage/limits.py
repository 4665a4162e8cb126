"""How long MongoDB is waited for."""

from typing import Self

from pydantic import model_validator

from common.limits import Limits, Wait, must_be_below


class StorageLimits(Limits):
    """The limits of a service's database, and of the acts that it remembers."""

    answer_seconds: Wait = 2.0
    """For one operation, or for one transaction as a whole."""
    ping_seconds: Wait = 1.0
    """For the answer by which `/readyz` tells whether MongoDB is there."""
    start_seconds: Wait = 30.0
    """For a MongoDB that is not there yet when a service starts."""
    start_poll_seconds: float = 0.25
    close_seconds: Wait = 1.0
    """For telling MongoDB that a client goes, which the driver would try for half a minute."""

    same_act_seconds: Wait = 2.0
    """For another request with the same Idempotency-Key that is doing the act."""
    same_act_poll_seconds: float = 0.05
    abandoned_act_seconds: Wait = 60.0
    """An act that is pending for longer was broken off: the next request with its key takes it over."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        must_be_below(
            ("a ping of MongoDB", self.ping_seconds),
            ("an operation of MongoDB", self.answer_seconds),
        )
        must_be_below(
            ("the wait for another request with the same Idempotency-Key", self.same_act_seconds),
            ("the time after which an act counts as broken off", self.abandoned_act_seconds),
        )
        return self
