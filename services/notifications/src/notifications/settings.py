"""What this service reads from its environment, and its limits."""

from typing import Self

from pydantic import Field, model_validator

from common.limits import Limits, Wait, limits_of, must_be_below
from common.settings import Settings


class NotificationsLimits(Limits):
    """The limits of telling what happened."""

    at_once: int = 25
    """News that a notifier is given together."""
    name_seconds: Wait = 0.5
    """For accounts to answer a name; then the id is told."""
    lease_seconds: Wait = 60.0
    """How long other replicas leave news alone that one is telling."""


class DiscordLimits(Limits):
    """The limits of the plugin `discord`."""

    message_seconds: Wait = 20.0
    examine_seconds: Wait = 5.0
    per_minute: float = 30
    """Messages to one channel; that it is no more than 5 in 2 s as well follows (discord-api-docs issue 367)."""
    longest_pause_seconds: float = 3600.0
    """That Discord is believed to ask for."""
    first_rest_seconds: float = 1.0
    """After a message of which nobody knows whether it was written; twice as long each time."""
    longest_rest_seconds: float = 600.0


class NotificationsSettings(Settings):
    """Settings of the notifications service."""

    accounts_url: str = Field("http://accounts:8000", description="where accounts listens; several by commas")
    notifications: NotificationsLimits = limits_of(NotificationsLimits)
    discord: DiscordLimits = limits_of(DiscordLimits)

    @model_validator(mode="after")
    def _a_lease_outlasts_its_message(self) -> Self:
        message = self.notifications.name_seconds + self.discord.message_seconds + self.storage.answer_seconds
        must_be_below(
            ("telling Discord", message), ("the lease of what is told", self.notifications.lease_seconds)
        )
        return self
