"""What is told, to whom, and how often: every event arrives twice."""

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest
from prometheus_client import REGISTRY

from common.actors import Actor
from common.errors import InvalidEvent, Unavailable
from common.events import Event
from common.messaging.handling import Handled, Outcome
from notifications.main import SERVICE
from notifications.models import News
from notifications.repository import Repository
from notifications.service import Notifications
from notifications.settings import NotificationsLimits
from tests.notifications.builders import (
    GROUP,
    Park,
    approved,
    granted,
    notifying,
    revoked,
    shift,
    submitted,
)
from tests.standins import Fault
from tests.support import Servers, unique_id, wait_until

OLD = datetime.now(UTC) - timedelta(hours=25)


class Paper:
    """A notifier that writes down what it is told, so many at once; or fails."""

    def __init__(self, at_once: int = 100, error: Exception | None = None) -> None:
        self.at_once = at_once
        self.error = error
        self.told: list[News] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def wants(self, kind: str) -> bool:
        return kind != "shift_long"

    async def tell(self, news: Sequence[News]) -> int:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        told = list(news[: self.at_once])
        self.told += told
        return len(told)


def errors(outcomes: Sequence[Outcome]) -> list[type[Exception]]:
    """The kinds of errors among outcomes, in order."""
    return [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)]


async def twice(park: Park, events: Sequence[Event]) -> None:
    """Deliver events, and once more: then all that is news was known."""
    assert await park.service.tell(events) == [Handled.DONE] * len(events)
    lines = park.lines
    again = await park.service.tell(list(reversed(events)))
    assert not errors(again)
    assert park.lines == lines


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            submitted(user=7, url="https://park.example/applications/a-b"),
            "**7** has applied: <https://park.example/applications/a-b>",
        ),
        (approved(username="Ann_1"), r"**Ann\_1** was approved by Boss and is now **Student**."),
        (granted(), "**Ann** was granted **Tower operator** by Boss."),
        (granted(certification="gone"), "**Ann** was granted **gone** by Boss."),
        (revoked(moderator="<@1>"), "**Ann** lost **Tower operator**: revoked by \\<@\u200b1\\>."),
        (
            granted(moderator="roblox:4", actor=Actor(by="roblox:4", via="discord:400")),
            "**Ann** was granted **Tower operator** by <@400>.",
        ),
        (
            revoked(moderator="discord:400", actor=Actor(by="discord:400")),
            "**Ann** lost **Tower operator**: revoked by <@400>.",
        ),
        (
            approved(moderator="roblox:4", actor=Actor(by="roblox:4")),
            "**Ann** was approved by Roblox user 4 and is now **Student**.",
        ),
        (
            granted(moderator="discord:<@1>"),
            "**Ann** was granted **Tower operator** by discord\\:\\<@\u200b1\\>.",
        ),
        (shift(8, user=7), "**7** logged a long shift: 8 h at The park, points: 480."),
        (shift(23.99, user=7, place=5), "**7** logged a long shift: 23 h 59 min at 5, points: 1439."),
        (
            shift(1.5, user=7, flags=("overlap",), credited_seconds=59),
            "**7** logged a shift that overlaps an earlier one: 1 h 30 min at The park, of which 59 s count.",
        ),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Event) else "",
)
async def test_what_happens_is_told_once_though_it_arrives_twice(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, event: Event, line: str
) -> None:
    assert type(event) in SERVICE.handles
    event = event.model_copy(update={"occurred_at": datetime.now(UTC)})
    async with notifying(servers, monkeypatch) as park:
        await twice(park, [event])
        assert park.lines == [line]
        assert await park.service.tell([event, event]) == [Handled.UNCHANGED] * 2
        (post,) = park.posts()
        assert post == {"content": line, "allowed_mentions": {"parse": []}}


@pytest.mark.parametrize("copy_url", [None, "https://park.example/applications/copy"])
async def test_a_text_may_show_where_an_application_is_kept_here(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, copy_url: str | None
) -> None:
    url = "https://pastebin.com/raw/Abc12345"
    options = {"application_submitted": "{id}: {url} (if it is hidden: {copy_url})"}
    async with notifying(servers, monkeypatch, options=options) as park:
        await twice(park, [submitted(user=7, url=url, copy_url=copy_url)])
        assert park.lines == [f"7: <{url}> (if it is hidden: <{copy_url or url}>)"]


async def test_an_event_that_is_twice_in_one_batch_is_told_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        event = granted()
        await twice(park, [event, event])
        assert len(park.lines) == 1


async def test_most_shifts_are_no_news(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async with notifying(servers, monkeypatch) as park:
        await twice(park, [shift(7.99), shift(0.1), shift(1, flags=("something",))])
        assert not park.standin.requests and not park.accounts.asked
        both = shift(9, flags=("overlap",))
        await twice(park, [both])
        assert len(park.lines) == 2 and len(park.posts()) == 1


async def test_what_waited_is_told_in_the_order_in_which_it_happened_and_says_when(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        times = [datetime.now(UTC) - timedelta(minutes=minutes) for minutes in (3, 2, 1)]
        events = [granted(username=str(number), occurred_at=at) for number, at in enumerate(times)]
        await twice(park, [events[1], events[2], events[0]])
        assert [line.split("**")[1] for line in park.lines] == ["0", "1", "2"]
        assert [line.split(" ")[-1] for line in park.lines] == [
            f"(<t:{int(at.timestamp())}:T>)" for at in times
        ]


async def test_what_is_a_day_old_is_not_told(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async with notifying(servers, monkeypatch) as park:
        await twice(park, [granted(occurred_at=OLD), granted(), granted(occurred_at=OLD)])
        assert len(park.lines) == 1
        assert await park.database["sent"].count_documents({}) == 1


async def test_a_grant_that_is_published_again_by_a_repair_is_not_told_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        first = granted(version=3)
        again = granted(user=first.user, version=3)
        assert again.id != first.id
        await twice(park, [first])
        await twice(park, [revoked(user=first.user, version=4)])
        await park.service.tell([again])
        assert len(park.lines) == 2


async def test_what_waits_shares_messages_that_discord_accepts(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        await twice(park, [granted(username="*" * 64, moderator="@" * 64) for _ in range(100)])
        assert len(park.lines) == 100
        assert len(park.posts()) == 17  # of six lines of 303 characters
        await twice(park, [granted() for _ in range(100)])
        assert len(park.posts()) == 17 + 4  # no more than 25 at once


async def test_names_come_from_accounts(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async with notifying(servers, monkeypatch, limits=NotificationsLimits(name_seconds=20)) as park:
        known, unknown = unique_id(), unique_id()
        park.accounts.names[known] = "Ann_1"
        await twice(park, [submitted(user=known), submitted(user=unknown)])
        assert [line.split("**")[1] for line in park.lines] == [r"Ann\_1", str(unknown)]
        assert sorted(park.accounts.asked) == [known, unknown]


@pytest.mark.parametrize("how", ["down", "refuses", "not there"])
async def test_without_accounts_people_are_told_the_id_and_soon(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url = "http://127.0.0.1:9" if how == "not there" else "http://accounts"
    async with notifying(servers, monkeypatch, accounts_url=url) as park:
        park.accounts.status = {"down": 503, "refuses": 429}.get(how, 200)
        events = [submitted() for _ in range(20)]
        began = time.monotonic()
        await twice(park, events)
        assert time.monotonic() - began < 30
        assert [line.split("**")[1] for line in park.lines] == [str(event.user) for event in events]


async def test_what_cannot_be_told_now_is_told_later_and_what_was_told_is_not_repeated(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        events = [granted(username=f"{number}" + "*" * 63, moderator="@" * 64) for number in range(10, 40)]
        park.standin.faults.next(None, None, Fault.AWAY)
        outcomes = await park.service.tell(events)
        assert outcomes[:12] == [Handled.DONE] * 12
        assert errors(outcomes) == [Unavailable] * 18
        assert len(park.lines) == 12
        assert await park.database["sent"].count_documents({"sent": False}) == 0
        assert await park.service.tell(events) == [Handled.UNCHANGED] * 12 + [Handled.DONE] * 18
        await twice(park, [granted()])
        assert len(park.lines) == 31
        assert len({*park.lines}) == 31


SURE = (Fault.LIMITED, Fault.BROKEN, Fault.AWAY)
UNSURE = (Fault.GARBAGE, Fault.CUT, Fault.CLOSED)


@pytest.mark.parametrize("kinds", [SURE, (*SURE, *UNSURE)], ids=["nothing was done", "it may have been done"])
async def test_whatever_goes_wrong_all_is_told_and_again_only_what_may_have_been_written(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, kinds: Sequence[Fault]
) -> None:
    soon = {"first_rest_seconds": 0.01, "longest_rest_seconds": 0.05}
    async with notifying(servers, monkeypatch, discord=soon) as park:
        park.standin.faults.retry_after = 0.01
        park.standin.faults.at_random(0.4, seed=1, kinds=kinds)
        events = [granted(username=f"{number}" + "*" * 60, moderator="@" * 64) for number in range(100, 190)]

        async def is_told() -> bool:
            return not errors(await park.service.tell(events))

        await wait_until(is_told, 60)
        assert sorted({line.split(r"\*")[0] for line in park.lines}) == [f"**{n}" for n in range(100, 190)]
        struck = park.standin.faults.struck
        assert sum(struck[fault] for fault in SURE) > 3
        told_again = len(park.lines) - len(events)
        unsure = sum(struck[fault] for fault in UNSURE)
        assert (told_again > 0) == (unsure > 0) == (kinds != SURE)
        assert told_again <= 6 * unsure  # lines of one message


@pytest.mark.parametrize("number", [3, 60])
async def test_one_that_is_invalid_is_alone_in_that(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with notifying(servers, monkeypatch, forbidden="evil") as park:
        bad = submitted(url="https://evil.example/x")
        events = [*(submitted() for _ in range(number // 2)), bad, *(submitted() for _ in range(number // 2))]
        outcomes = await park.service.tell(events)
        (error,) = (outcome for outcome in outcomes if isinstance(outcome, Exception))
        assert isinstance(error, InvalidEvent)
        assert re.fullmatch(r"Discord answered 400: .* \(code 240000\)", str(error))
        assert outcomes[number // 2] is error
        assert len({*park.lines}) == len(park.lines) == len(events) - 1
        assert len(park.posts()) < 20
        again = await park.service.tell(events)
        assert again.count(Handled.UNCHANGED) == len(events) - 1
        assert errors(again) == [InvalidEvent]


async def test_two_replicas_with_the_same_events_tell_each_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        papers = [Paper(at_once=3) for _ in range(3)]
        replicas = [
            Notifications(
                NotificationsLimits(), GROUP, park.database, park.service._accounts, {"paper": paper}
            )
            for paper in papers
        ]
        events = [granted(username=str(number)) for number in range(60)]
        results = await asyncio.gather(*(replica.tell(events) for replica in replicas))
        assert {error for result in results for error in errors(result)} <= {Unavailable}
        assert all(any(result[number] is Handled.DONE for result in results) for number in range(60))
        assert await replicas[0].tell(events) == [Handled.UNCHANGED] * 60
        told = sorted(news.fields["username"] for paper in papers for news in paper.told)
        assert told == sorted(str(number) for number in range(60))


async def test_what_somebody_is_sending_is_left_alone_until_it_seems_dead(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        event = approved()
        assert await Repository(park.database, NotificationsLimits()).take(f"discord:{event.id}")
        assert errors(await park.service.tell([event])) == [Unavailable]
        assert not park.lines
        past = datetime.now(UTC) - timedelta(seconds=NotificationsLimits().lease_seconds + 1)
        await park.database["sent"].update_one({}, {"$set": {"at": past}})
        await twice(park, [event])
        assert len(park.lines) == 1


@pytest.mark.parametrize("error", [Unavailable("paper"), InvalidEvent("no"), ValueError("a bug")])
async def test_a_notifier_that_fails_keeps_no_other_from_being_told(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    paper = Paper(error=error)
    async with notifying(servers, monkeypatch, ("paper", paper)) as park:
        event, long = granted(), shift(9)  # paper wants no long shifts
        assert await park.service.tell([event, long]) == [error, Handled.DONE]
        assert await park.service.tell([event, long]) == [error, Handled.UNCHANGED]
        assert len(park.lines) == 2
        paper.error = None
        assert await park.service.tell([event]) == [Handled.DONE]
        await twice(park, [revoked(user=event.user)])
        assert [news.kind for news in paper.told] == ["certification_granted", "certification_revoked"]
        assert len(park.lines) == 3


@pytest.mark.parametrize("error", [InvalidEvent("no"), ValueError("a bug")])
async def test_where_one_must_wait_nothing_is_buried_for_another(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    paper = Paper(error=error)
    async with notifying(servers, monkeypatch, ("paper", paper)) as park:
        event = granted()
        park.standin.faults.next(Fault.AWAY)
        assert errors(await park.service.tell([event])) == [Unavailable]
        assert await park.service.tell([event]) == [error]
        assert len(park.lines) == 1


async def test_what_one_notifier_was_told_in_time_is_not_counted_as_expired_for_it(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"paper_{unique_id()}"
    paper = Paper(error=Unavailable("paper"))

    def expired(notifier: str) -> float:
        labels = {"notifier": notifier, "outcome": "expired"}
        return REGISTRY.get_sample_value("callboard_notifications_total", labels) or 0

    async with notifying(servers, monkeypatch, (name, paper)) as park:
        event = granted()
        assert await park.service.tell([event]) == [paper.error]
        before = expired("discord")
        late = event.model_copy(update={"occurred_at": OLD})
        assert await park.service.tell([late]) == [Handled.DONE]
        assert (expired(name), expired("discord") - before) == (1, 0)


async def test_a_kind_that_nobody_wants_leaves_nothing_behind(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"shift_long": "", "certification_granted": "  "}
    async with notifying(servers, monkeypatch, options=texts) as park:
        await twice(park, [shift(9), shift(9, flags=("overlap",))])
        await twice(park, [granted()])
        assert len(park.lines) == 1
        assert await park.database["sent"].count_documents({}) == 1


async def test_what_was_sent_is_forgotten_after_two_days_when_it_is_no_news_any_more(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(servers, monkeypatch) as park:
        indexes = await park.database["sent"].index_information()
        assert indexes["forget"]["expireAfterSeconds"] == 2 * 86_400
        await twice(park, [granted()])
        found = await park.database["sent"].find_one({})
        assert found and isinstance(found["at"], datetime)
