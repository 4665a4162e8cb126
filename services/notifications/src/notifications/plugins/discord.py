"""Messages in a Discord channel, through a webhook of it.

https://docs.discord.com/developers/resources/webhook
"""

import logging
import re
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from common import metrics
from common.errors import ConfigurationError, InvalidEvent, Unavailable
from common.plugins import Finding, PluginContext
from common.providers import Budget, Provider, Urgency
from notifications.models import KINDS, News
from notifications.plugins.discord_text import LONGEST_MESSAGE, check_text, length, render

logger = logging.getLogger(__name__)

_SECRET = "discord_webhook"  # noqa: S105 - the name of one
_PER_MINUTE = 30
"""Messages to one channel; that it is no more than 5 in 2 s as well follows (discord-api-docs issue 367)."""

_LONGEST_PAUSE_SECONDS = 3600.0
_SECONDS = 20.0
_NEW_ONE = (
    "Make a new webhook (the channel's settings, Integrations, Webhooks), give its URL as "
    f"CALLBOARD_{_SECRET.upper()}, and start again."
)


class DiscordOptions(BaseModel):
    """plugins.options.discord: the text of each kind of news; an empty one turns the kind off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    application_submitted: str = "**{username}** has applied: {url}"
    application_approved: str = "**{username}** was approved by {moderator} and is now **{rank}**."
    certification_granted: str = "**{username}** was granted **{certification}** by {moderator}."
    certification_revoked: str = "**{username}** lost **{certification}**: revoked by {moderator}."
    shift_long: str = "**{username}** logged a long shift: {duration} at {place}, points: {points}."
    shift_overlap: str = "**{username}** logged a shift that overlaps an earlier one: {duration} at {place}, of which {credited} count."

    @field_validator("*")
    @classmethod
    def _can_be_rendered(cls, text: str, of: ValidationInfo) -> str:
        check_text(text, KINDS[of.field_name or ""])
        return text.strip()


class _Webhook(BaseModel):
    name: str | None = None
    channel_id: str | None = None


class _Message(BaseModel):
    id: str


class _Error(BaseModel):
    message: str = ""
    code: int = 0


class Discord:
    """One webhook. Its URL is a secret, which stands in no log, no error and no metric."""

    def __init__(self, context: PluginContext) -> None:
        self._texts = context.options(DiscordOptions).model_dump()
        url = context.secret(_SECRET).get_secret_value()
        found = re.fullmatch(r"(https?://[\w.-]+(?::\d{1,5})?/api(?:/v\d+)?/webhooks/\d+)/([\w-]+)/?", url)
        if found is None:
            raise ConfigurationError(
                f"CALLBOARD_{_SECRET.upper()}: expected the URL of a webhook, "
                "https://discord.com/api/webhooks/<number>/<token>."
            )
        base, self._token = found.groups()
        self._provider = Provider("discord", base, {"User-Agent": "DiscordBot (Callboard, 0.1)"})
        self._budget = Budget(_PER_MINUTE, _LONGEST_PAUSE_SECONDS)
        self._is_refused = False
        self._gauge = metrics.NOTIFIER_REFUSED.labels(context.name)

    async def __aenter__(self) -> Self:
        self._gauge.set(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._provider.close()

    def wants(self, kind: str) -> bool:
        """Whether the kind has a text."""
        return bool(self._texts[kind])

    async def tell(self, news: Sequence[News]) -> int:
        """Write the news into the channel, a line for each.

        A webhook that Discord has refused is asked no more until the next start: Discord bans who goes on.
        """
        if self._is_refused:
            raise Unavailable(self._provider.name)
        lines = self._lines(news)
        answer = await self._provider.call(
            "POST",
            self._token,
            # Else Discord answers before it knows whether it takes the message.
            params={"wait": "true"},
            json={"content": "\n".join(lines), "allowed_mentions": {"parse": []}},
            budget=self._budget,
            urgency=Urgency.DECISION,  # the budget is for these alone
            seconds=_SECONDS,
            attempts=1,  # the news come again, and others have their turn before
        )
        if answer.status in (401, 403, 404):
            self._is_refused = True
            self._gauge.set(1)
            logger.error(
                "Discord refuses the webhook (%d): nothing is told until the next start. %s",
                answer.status,
                _NEW_ONE,
            )
            raise Unavailable(self._provider.name)
        if answer.status == 400:
            error = self._provider.read(_Error, answer)
            raise InvalidEvent(f"Discord answered 400: {error.message[:200]} (code {error.code})")
        self._provider.read(_Message, answer)  # who answers anything else may have kept nothing
        return len(lines)

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether Discord knows the webhook; nothing is sent."""
        try:
            answer = await self._provider.call("GET", self._token, budget=Budget(_PER_MINUTE), seconds=5.0)
            if answer.status == 200:
                webhook = self._provider.read(_Webhook, answer)
                yield Finding(
                    True,
                    f'Discord knows the webhook "{webhook.name}", which writes to channel {webhook.channel_id}.',
                )
            else:
                yield Finding(
                    False, f"Discord does not know the webhook (it answered {answer.status}).", _NEW_ONE
                )
        except Unavailable:
            yield Finding(
                False,
                "Discord does not answer as it should.",
                "Is https to discord.com allowed from this machine? Else try again later.",
            )

    def _lines(self, news: Sequence[News]) -> list[str]:
        """As many of the first as fit into one message."""
        lines: list[str] = []
        left = LONGEST_MESSAGE + 1  # after the last line there is no break
        for one in news:
            line = render(self._texts[one.kind], one.fields)
            left -= length(line) + 1
            if lines and left < 0:
                break
            lines.append(line)
        return lines
