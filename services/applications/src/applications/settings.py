"""What this service reads from its environment, and its limits."""

from typing import Self

from pydantic import Field, HttpUrl, model_validator

from common.limits import Limits, Wait, limits_of, must_be_below
from common.settings import Settings


class ApplicationsLimits(Limits):
    """The limits of applications' use cases."""

    member_seconds: Wait = 2.5
    """For accounts to answer who somebody is, with the rank as it is now."""
    rank_seconds: Wait = 4.0
    """For accounts to set a rank."""
    lease_seconds: Wait = 7.0
    """How long one attempt to finish an approval keeps others away."""
    approval_seconds: Wait = 9.0
    """For an approval as a whole, one that waits for the lease of another included."""
    approval_poll_seconds: float = 0.05
    finish_every_seconds: float = 30.0
    """Between two looks for approvals that a crash left behind."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        attempt = ("an attempt at an approval", self.member_seconds + self.rank_seconds)
        lease = ("the lease of an approval", self.lease_seconds)
        must_be_below(attempt, lease)
        must_be_below(lease, ("the time limit of an approval", self.approval_seconds))
        return self


class PastebinLimits(Limits):
    """The limits of the plugin `pastebin`."""

    paste_seconds: Wait = 2.9
    examine_seconds: Wait = 5.0
    calls_per_minute: int = 120
    """Not documented: what Pastebin limits is a day."""
    pause_seconds: float = 3600.0
    """After Pastebin said that it takes no more today."""


class ApplicationsSettings(Settings):
    """Settings of the applications service."""

    accounts_url: str = Field("http://accounts:8000", description="where accounts listens; several by commas")
    public_url: HttpUrl = Field(
        description="where people reach the gateway; the URLs of applications begin with it"
    )
    applications: ApplicationsLimits = limits_of(ApplicationsLimits)
    pastebin: PastebinLimits = limits_of(PastebinLimits)

    @model_validator(mode="after")
    def _fits_between_accounts_and_gateway(self) -> Self:
        limits, gateway = self.applications, ("the gateway's time limit", self.hop.request_seconds)
        must_be_below(
            ("reading a rank in accounts", self.hop.rank_read_seconds),
            ("asking accounts for a rank", limits.member_seconds),
        )
        must_be_below(
            ("setting a rank in accounts", self.hop.rank_set_seconds),
            ("asking accounts to set a rank", limits.rank_seconds),
        )
        must_be_below(("an approval", limits.approval_seconds), gateway)
        # The text is kept in the database before and after, as is the record.
        upload = self.pastebin.paste_seconds + 3 * self.storage.answer_seconds
        must_be_below(("an upload to Pastebin", upload), gateway)
        return self
