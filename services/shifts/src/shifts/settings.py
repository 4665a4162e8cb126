"""What this service reads from its environment."""

from pydantic import Field

from common.settings import Settings


class ShiftsSettings(Settings):
    """Settings of the shifts service."""

    certifications_url: str = Field(
        "http://certifications:8000", description="where certifications listens; several by commas"
    )
