"""What this service reads from its environment, and its limits."""

from typing import Self

from pydantic import Field, model_validator

from common.limits import Limits, Wait, limits_of, must_be_below
from common.settings import Settings


class CertificationsLimits(Limits):
    """The limits of certifications' use cases."""

    fresh_seconds: Wait = 2.5
    """For accounts to answer a rank as it is now."""


class CertificationsSettings(Settings):
    """Settings of the certifications service."""

    accounts_url: str = Field("http://accounts:8000", description="where accounts listens; several by commas")
    certifications: CertificationsLimits = limits_of(CertificationsLimits)

    @model_validator(mode="after")
    def _fits_between_accounts_and_gateway(self) -> Self:
        fresh = ("asking accounts for a rank", self.certifications.fresh_seconds)
        must_be_below(("reading a rank in accounts", self.hop.rank_read_seconds), fresh)
        must_be_below(fresh, ("the gateway's time limit", self.hop.request_seconds))
        return self
