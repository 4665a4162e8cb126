"""What this service reads from its environment."""

from pydantic import Field, HttpUrl

from common.settings import Settings


class ApplicationsSettings(Settings):
    """Settings of the applications service."""

    accounts_url: str = Field("http://accounts:8000", description="where accounts listens; several by commas")
    public_url: HttpUrl = Field(
        description="where people reach the gateway; the URLs of applications begin with it"
    )
