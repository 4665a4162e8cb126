"""Messages in a Discord channel, through a webhook of it.

https://docs.discord.com/developers/resources/webhook
"""

import logging
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import NoReturn, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from common import metrics
from common.errors import ConfigurationError, InvalidEvent, Unavailable
from common.outgoing.providers import Answer, Budget, Provider, Urgency, fit_to_show
from common.plugins import Finding, PluginContext
from notifications.models import KINDS, News
from notifications.plugins.discord_text import LONGEST_MESSAGE, check_text, length, moment, render
from notifications.settings import DiscordLimits

logger = logging.getLogger(__name__)

_SECRET = "discord_webhook"  # noqa: S105 - the name of one
_LATE = timedelta(seconds=5)
_VERSION = "v10"  # the one for URLs without any is v6, whose Retry-After is in milliseconds
_NEEDS_THREAD = 220001
_NEW_ONE = (
    "Make a new webhook (a text channel's settings, Integrations, Webhooks), give its URL as "
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


class _Refusal(BaseModel):
    code: int  # without one, it is not Discord who speaks, but something on the way there


class Discord:
    """One webhook. Its URL is a secret, which stands in no log, no error and no metric."""

    def __init__(self, context: PluginContext) -> None:
        self._texts = context.options(DiscordOptions).model_dump()
        url = context.secret(_SECRET).get_secret_value()
        found = re.fullmatch(r"(https?://[\w.-]+(?::\d{1,5})?/api)(?:/v\d+)?(/webhooks/\d+)/([\w-]+)/?", url)
        if found is None:
            raise ConfigurationError(
                f"CALLBOARD_{_SECRET.upper()}: expected the URL of a webhook, "
                "https://discord.com/api/webhooks/<number>/<token>."
            )
        api, webhook, self._token = found.groups()
        self._provider = Provider(
            "discord", f"{api}/{_VERSION}{webhook}", {"User-Agent": "DiscordBot (Callboard, 0.1)"}
        )
        self._limits = context.limits(DiscordLimits)
        self._budget = Budget(self._limits.per_minute, self._limits.longest_pause_seconds)
        self._rest_seconds = self._limits.first_rest_seconds
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
        answer = None
        failures = self._provider.failures
        try:
            answer = await self._provider.call(
                "POST",
                self._token,
                # Else Discord answers before it knows whether it takes the message.
                params={"wait": "true"},
                json={"content": "\n".join(lines), "allowed_mentions": {"parse": []}},
                budget=self._budget,
                urgency=Urgency.DECISION,  # the budget is for these alone
                seconds=self._limits.message_seconds,
                attempts=1,  # the news come again, and others have their turn before
            )
            self._judge(answer)
        except Unavailable:
            if answer is not None or self._provider.failures > failures:  # else nothing was sent, or 429 came
                self._rest()
            raise
        self._rest_seconds = self._limits.first_rest_seconds
        return len(lines)

    def _judge(self, answer: Answer) -> None:
        """Raises what keeps the message from being written, as far as Discord tells it."""
        if answer.status in (401, 403, 404):
            self._provider.read(_Refusal, answer)
            self._refuse(f"refuses the webhook ({answer.status})")
        if answer.status == 400:
            error = self._provider.read(_Error, answer)
            if error.code == _NEEDS_THREAD:
                self._refuse("takes no messages in the webhook's channel, which is a forum")
            raise InvalidEvent(f"Discord answered 400: {fit_to_show(error.message)} (code {error.code})")
        self._provider.read(_Message, answer)  # who answers anything else may have kept nothing

    def _refuse(self, why: str) -> NoReturn:
        self._is_refused = True
        self._gauge.set(1)
        logger.error("Discord %s: nothing is told until the next start. %s", why, _NEW_ONE)
        raise Unavailable(self._provider.name)

    def _rest(self) -> None:
        """Wait longer each time: the message may stand there, and would stand there once more each time."""
        self._budget.pause(self._rest_seconds)
        self._rest_seconds = min(2 * self._rest_seconds, self._limits.longest_rest_seconds)

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether Discord knows the webhook; nothing is sent."""
        try:
            limits = self._limits
            answer = await self._provider.call(
                "GET", self._token, budget=Budget(limits.per_minute), seconds=limits.examine_seconds
            )
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
        """As many of the first as fit into one message; what is late says when it was, for it may be out of order."""
        lines: list[str] = []
        left = LONGEST_MESSAGE + 1  # after the last line there is no break
        late = datetime.now(UTC) - _LATE
        for one in news:
            line = render(self._texts[one.kind], one.fields)
            if one.at < late and length(timed := f"{line} ({moment(one.at)})") <= LONGEST_MESSAGE:
                line = timed
            left -= length(line) + 1
            if lines and left < 0:
                break
            lines.append(line)
        return lines
