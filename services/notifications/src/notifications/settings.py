"""What this service reads from its environment."""

from pydantic import Field

from common.settings import Settings


class NotificationsSettings(Settings):
    """Settings of the notifications service."""

    accounts_url: str = Field("http://accounts:8000", description="where accounts listens; several by commas")
