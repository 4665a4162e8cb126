"""What this service reads from its environment, and its limits."""

from typing import Self

from pydantic import Field, model_validator

from common.limits import Limits, Wait, limits_of, must_be_below
from common.settings import Settings


class ShiftsLimits(Limits):
    """The limits of logging a shift."""

    log_seconds: Wait = 2.3
    """For a shift to be stored; then the answer is 503."""
    locked_seconds: Wait = 0.3
    """How long a batch waits for a person whom a dead process left locked, before each is tried alone."""
    certifications_seconds: Wait = 0.3
    """For certifications to answer what somebody holds."""
    gather_seconds: float = 0.02
    """Measured with 32 connections: batches of 31 in place of 1 and 31 by turns, two thirds of the CPU per shift."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        must_be_below(
            # A request may have to wait for those of the batch before, and for its own.
            ("waiting three times for a locked person", 3 * self.locked_seconds),
            ("half of the time limit of a shift", self.log_seconds / 2),
        )
        must_be_below(
            ("asking certifications", self.certifications_seconds),
            ("half of the time limit of a shift", self.log_seconds / 2),
        )
        return self


class ShiftsSettings(Settings):
    """Settings of the shifts service."""

    certifications_url: str = Field(
        "http://certifications:8000", description="where certifications listens; several by commas"
    )
    shifts: ShiftsLimits = limits_of(ShiftsLimits)

    @model_validator(mode="after")
    def _ends_before_the_gateway_does(self) -> Self:
        must_be_below(
            ("logging a shift", self.shifts.log_seconds),
            ("the gateway's time limit", self.hop.request_seconds),
        )
        return self
