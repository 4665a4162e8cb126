"""The webhook: what Discord asks of who writes through it, and what becomes of it when something goes wrong."""

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from common.errors import ConfigurationError, InvalidEvent, Unavailable
from common.plugins import Examinable, Finding
from notifications.models import News
from notifications.plugins.discord import Discord
from tests.notifications.builders import database, plugin
from tests.standins import Fault, Forged
from tests.standins.discord import Discord as Standin
from tests.standins.discord import Webhook
from tests.standins.discord import discord as discord_standin
from tests.support import Servers, unique_id

BAD_URLS = (
    "",
    "canary",
    "https://discord.com/api/webhooks/123/",
    "https://discord.com/api/webhooks/canary/canary",
    "https://discord.com/api/webhooks/123/canary/slack",
    "https://discord.com/api/webhooks/123/canary?wait=true",
    "https://canary@discord.com/api/webhooks/123/token",
    "ftp://discord.com/api/webhooks/123/canary",
    "https://discord.com:port/api/webhooks/123/canary",
)


@dataclass
class Channel:
    """The plugin on a webhook."""

    discord: Discord
    standin: Standin
    webhook: Webhook

    def limit(self, **limits: float) -> None:
        """Give the plugin other limits."""
        self.discord._limits = self.discord._limits.model_copy(update=limits)

    async def tell(self, *names: str) -> int:
        """Tell that these were approved."""
        return await self.discord.tell([news(name) for name in names])


def news(name: str = "Ann", ago: float = 0) -> News:
    """Somebody was approved, so many seconds ago."""
    fields = {"username": name, "id": "1", "rank": "Student", "moderator": "Boss"}
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return News(str(unique_id()), "application_approved", at, fields)


@asynccontextmanager
async def channel(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str] | None = None,
    per_minute: float = 60_000,
    **given: float,
) -> AsyncIterator[Channel]:
    """A plugin that was entered; `given` is what the webhook is."""
    async with database(servers) as own, discord_standin() as standin:
        webhook = standin.webhook(**{"per_window": 10_000} | given)
        async with plugin(monkeypatch, own, webhook.url, options, per_minute=per_minute) as discord:
            yield Channel(discord, standin, webhook)


def refused() -> float | None:
    """What Prometheus is shown."""
    return REGISTRY.get_sample_value("callboard_notifier_refused", {"notifier": "discord"})


async def test_nothing_that_is_written_pings_anybody(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch) as one:
        assert await one.tell("@everyone", "<@1>") == 2
        (request,) = one.standin.received(method="POST")
        assert request.json["allowed_mentions"] == {"parse": []}
        assert request.query == {"wait": "true"}
        assert request.headers["User-Agent"].startswith("DiscordBot (")
        assert one.webhook.lines[0].startswith("**@\N{ZERO WIDTH SPACE}everyone**")


@pytest.mark.parametrize(("characters", "told"), [(2000, 1), (1000, 1), (999, 2), (666, 3)])
async def test_a_message_takes_as_many_lines_as_fit(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, characters: int, told: int
) -> None:
    async with channel(servers, monkeypatch, {"application_approved": "x" * characters}) as one:
        assert await one.tell("Ann", "Bob", "Cat", "Dan") == told
        assert one.webhook.lines == ["x" * characters] * told


async def test_what_is_late_says_when_it_was_by_the_readers_clock(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch, {"application_approved": "{username}"}) as one:
        then, now = news("Ann", ago=10), news("Bob")
        await one.discord.tell([then, now])
        assert one.webhook.lines == [f"Ann (<t:{int(then.at.timestamp())}:T>)", "Bob"]


async def test_what_is_late_is_told_also_where_its_time_finds_no_room(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch, {"application_approved": "x" * 2000}) as one:
        assert await one.discord.tell([news(ago=10)]) == 1
        assert one.webhook.lines == ["x" * 2000]


async def test_a_limit_that_the_answers_tell_is_never_hit(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch, per_window=5, window=0.4) as one:
        for number in range(12):
            await one.tell(str(number))
        assert len(one.standin.received(method="POST")) == len(one.webhook.messages) == 12
        times = [request.at for request in one.standin.received(method="POST")]
        assert times[-1] - times[0] > 0.8


async def test_without_being_told_it_keeps_to_what_discord_is_known_to_allow(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch, per_minute=30) as one:
        began = time.monotonic()
        await one.tell("Ann")
        one.limit(message_seconds=0.5)
        for _ in range(20):
            try:
                await one.tell("Ann")
            except Unavailable:
                break
        # The third must wait for more than a second, and each after it for two.
        assert 1 <= len(one.webhook.messages) <= 2.4 + (time.monotonic() - began) / 2


@pytest.mark.parametrize("is_global", [False, True])
async def test_who_is_asked_to_wait_waits(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, is_global: bool
) -> None:
    async with channel(servers, monkeypatch) as one:
        if is_global:
            one.standin.faults.retry_after = 0.5
            one.standin.faults.next(Fault.LIMITED)
        else:
            one.webhook.per_window, one.webhook.window = 0, 0.5  # another program takes them all
        with pytest.raises(Unavailable):
            await one.tell("Ann")
        one.webhook.per_window = 1
        await one.tell("Ann")
        first, second = one.standin.received(method="POST")
        assert second.at - first.at > 0.3
        assert one.webhook.messages[-1].startswith("**Ann**")


async def test_a_pause_of_many_minutes_is_kept(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async with channel(servers, monkeypatch) as one:
        one.standin.faults.next(Forged(429, {"message": "", "global": False}, {"retry-after": "600"}))
        for _ in range(3):
            with pytest.raises(Unavailable):
                await one.tell("Ann")
        assert len(one.standin.requests) == 1
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await one.discord._budget.take(0, began + 500)  # type: ignore[arg-type] # of no urgency


@pytest.mark.parametrize(
    "fault", [*Fault, Forged(302, b"", {"location": "https://example.com"}), Forged(405)]
)
async def test_what_is_not_known_to_be_written_is_written_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, fault: Fault | Forged
) -> None:
    async with channel(servers, monkeypatch) as one:
        one.discord._rest_seconds = 0.01
        one.standin.faults.slow_seconds = 0.1
        one.standin.faults.next(fault)
        if fault is Fault.SLOW:
            assert await one.tell("Ann") == 1
        else:
            patient = one.discord._limits.message_seconds
            with pytest.raises(Unavailable):
                if fault is Fault.HANG:
                    one.limit(message_seconds=0.5)
                await one.tell("Ann")
            one.limit(message_seconds=patient)
        assert await one.tell("Bob") == 1
        assert one.webhook.lines[-1].startswith("**Bob**")
        assert refused() == 0


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.BROKEN, Fault.CUT, Fault.GARBAGE])
async def test_a_message_that_may_have_been_written_is_repeated_ever_more_rarely(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    async with channel(servers, monkeypatch) as one:
        if fault is Fault.HANG:
            one.limit(message_seconds=1.0)
        # All a hundred times as long, so that no rest is over before the next message.
        one.limit(first_rest_seconds=100.0, longest_rest_seconds=1000.0)
        one.discord._rest_seconds = 100.0
        one.standin.faults.always(fault)
        rests = []
        for number in range(1, 7):
            with pytest.raises(Unavailable):
                await one.tell("Ann")
            rests.append(one.discord._budget._paused_until - time.monotonic())
            with pytest.raises(Unavailable):
                await one.tell("Ann")  # at once: it waits
            assert len(one.standin.requests) == number
            one.discord._budget._paused_until = 0  # as if the time had passed
            one.discord._provider._breaker._next_try = 0
        assert rests == pytest.approx([100, 200, 400, 800, 1000, 1000], abs=30)
        one.standin.faults.clear()
        assert await one.tell("Ann") == 1
        one.standin.faults.next(fault)
        with pytest.raises(Unavailable):
            await one.tell("Ann")
        assert one.discord._budget._paused_until - time.monotonic() <= 100


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_who_is_not_discord_cannot_end_the_telling(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async with channel(servers, monkeypatch) as one:
        one.discord._rest_seconds = 0.01
        page = Forged(status, b"<html>Sign in to this network</html>", {"content-type": "text/html"})
        one.standin.faults.next(page, Forged(status, {"error": "blocked"}))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await one.tell("Ann")
        assert refused() == 0
        assert await one.tell("Ann") == 1


async def test_a_webhook_of_a_forum_is_refused_as_a_whole_and_not_message_by_message(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with channel(servers, monkeypatch) as one:
        one.webhook.is_in_forum = True
        for _ in range(3):
            with pytest.raises(Unavailable):
                await one.tell("Ann")
        assert len(one.standin.requests) == 1
        assert refused() == 1
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert re.search(r"a forum: nothing is told .* \(a text channel", record.getMessage())


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_webhook_that_is_refused_is_not_asked_again_and_somebody_hears_of_it(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    async with channel(servers, monkeypatch) as one:
        assert refused() == 0
        if status == 404:
            one.webhook.is_deleted = True
        else:
            one.standin.faults.next(Forged(status, {"message": "no", "code": 50027}))
        for _ in range(5):
            with pytest.raises(Unavailable):
                await one.tell("Ann")
        assert len(one.standin.requests) == 1
        assert refused() == 1
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert "CALLBOARD_DISCORD_WEBHOOK" in record.getMessage()


async def test_a_message_that_discord_does_not_take_says_why(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch) as one:
        one.webhook.forbidden = "Ann"
        with pytest.raises(InvalidEvent, match=r"^Discord answered 400: Message blocked .* \(code 240000\)$"):
            await one.tell("Ann")
        assert await one.tell("Bob") == 1
        one.standin.faults.next(Forged(400, {"message": "no\n\x1b[31m way" + "!" * 999, "code": 1}))
        with pytest.raises(InvalidEvent) as caught:
            await one.tell("Ann")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 300


async def test_no_error_and_no_line_of_ours_has_the_secret(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with channel(servers, monkeypatch) as one:
        one.limit(message_seconds=0.3)
        faults: list[Fault | Forged] = [*Fault, *(Forged(status, b"no") for status in (302, 400, 405, 404))]
        told = []
        for fault in faults:
            one.standin.faults.next(fault)
            try:
                await one.tell("Ann")
            except (Unavailable, InvalidEvent) as error:
                told += [str(error), repr(error), repr(error.__cause__)]
        told += [finding.what + finding.mend async for finding in one.discord.examine()]
        # Those of httpx have it, which is why `configure_logging` turns them off.
        told += [
            record.getMessage()
            for record in caplog.records
            if not record.name.startswith(("httpx", "httpcore"))
        ]
        assert len(told) > 20
        assert not [text for text in told if one.webhook.token in text]


@pytest.mark.parametrize("url", BAD_URLS)
async def test_a_url_that_is_none_of_a_webhook_stops_the_start_and_is_not_shown(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    async with database(servers) as own:
        with pytest.raises(ConfigurationError, match=r"^CALLBOARD_DISCORD_WEBHOOK: ") as caught:
            plugin(monkeypatch, own, url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://discord.com/api/webhooks/123/a-B_c",
        "https://discord.com/api/v10/webhooks/123/a-B_c",
        "https://ptb.discord.com/api/webhooks/123/a-B_c/",
        "https://discordapp.com/api/webhooks/123/a-B_c",
    ],
)
async def test_every_url_that_discord_shows_is_taken(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    async with database(servers) as own, plugin(monkeypatch, own, url):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"application_approved": "{nobody}"},
            r"plugins\.options\.discord\.application_approved: unknown field \{nobody\}; there are: \{username\}, ",
        ),
        ({"application_approved": "{url}"}, r"application_approved: unknown field \{url\}"),
        ({"application_approved": "{"}, r"application_approved: expected fields such as \{username\}"),
        ({"application_approved": "x" * 2001}, "application_approved: too long"),
        ({"application_denied": "x"}, r"plugins\.options\.discord\.application_denied: Extra inputs"),
    ],
)
async def test_a_text_that_cannot_be_used_stops_the_start_with_the_key(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], message: str
) -> None:
    async with database(servers) as own:
        with pytest.raises(ConfigurationError, match=message):
            plugin(monkeypatch, own, "https://discord.com/api/webhooks/123/abc", options)


async def findings(one: Channel) -> list[Finding]:
    """What the examination says."""
    assert isinstance(one.discord, Examinable)
    return [finding async for finding in one.discord.examine()]


async def test_an_examination_finds_the_webhook_and_writes_nothing(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch) as one:
        what = f'Discord knows the webhook "Callboard", which writes to channel {one.webhook.channel}.'
        assert await findings(one) == [Finding(True, what)]
        assert not one.standin.received(method="POST")


async def test_an_examination_says_what_is_wrong_and_how_to_mend_it(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel(servers, monkeypatch) as one:
        one.webhook.is_deleted = True
        (found,) = await findings(one)
        assert not found.is_right and "404" in found.what
        assert re.search("Make a new webhook .* CALLBOARD_DISCORD_WEBHOOK", found.mend)
        for fault in (Fault.BROKEN, Fault.GARBAGE):
            one.standin.faults.always(fault)
            (found,) = await findings(one)
            assert not found.is_right and found.mend
            one.standin.faults.clear()
