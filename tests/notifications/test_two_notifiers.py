"""Two notifiers on one bus, of which one is refused: each event answers for itself."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest

from common.background import background
from common.consumer import Consumer
from common.errors import Unavailable
from common.events import CertificationGranted, Event, ShiftLogged
from common.messaging.handling import Outcome
from common.messaging.limits import ConsumerLimits
from notifications.main import SERVICE
from notifications.service import Notifications
from notifications.settings import NotificationsLimits
from tests.common.test_bus import connected
from tests.notifications.builders import GROUP, granted, notifying, shift
from tests.notifications.test_told import Paper
from tests.support import Servers, unique_id, wait_until


class Gazette(Paper):
    """A notifier that wants everything."""

    def wants(self, kind: str) -> bool:  # noqa: ARG002 - whatever it is
        return True


def times_told(paper: Paper, events: Sequence[CertificationGranted | ShiftLogged]) -> set[int]:
    """How often each of these was told; the bus holds events of other tests too."""
    told = Counter(news.fields["id"] for news in paper.told)
    return {told[str(event.user)] for event in events}


async def test_one_that_is_refused_for_good_holds_up_nothing_that_the_other_is_told(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, healthy = Paper(error=Unavailable("the refused one")), Gazette()
    # One tells nobody of long shifts: these wait for nothing.
    for_both, for_one = [granted() for _ in range(60)], [shift(9) for _ in range(60)]
    deliveries: Counter[str] = Counter()
    async with notifying(servers, monkeypatch) as park, connected(servers) as bus:
        notifiers = {"refused": refused, "healthy": healthy}

        class Watched(Notifications):
            async def tell(self, events: Sequence[Event]) -> list[Outcome]:
                deliveries.update(event.id for event in events)
                return await super().tell(events)

        use_cases = Watched(NotificationsLimits(), GROUP, park.database, park.service._accounts, notifiers)
        soon = ConsumerLimits(longest_put_off_seconds=0.1)
        handlers = dict.fromkeys(SERVICE.handles, Watched.tell)
        consumer = Consumer(bus, f"told_{unique_id()}", park.database, handlers, use_cases, soon)

        async def publish(events: Iterable[Event]) -> None:
            rows = [(one.id, one.SUBJECT, one.model_dump_json().encode(), None) for one in events]
            assert not any(await bus.publish_all(rows))

        async with background(consumer.run):
            await publish([*for_both, *for_one])
            await wait_until(lambda: times_told(healthy, [*for_both, *for_one]) == {1}, 60)
            await wait_until(lambda: min(deliveries[event.id] for event in for_both) > 3, 60)
            assert {deliveries[event.id] for event in for_one} == {1}
            later: list[CertificationGranted | ShiftLogged] = [granted(), shift(9)]
            await publish(later)
            await wait_until(lambda: times_told(healthy, later) == {1}, 60)
            refused.error = None
            await wait_until(lambda: times_told(refused, [*for_both, later[0]]) == {1}, 60)
            await wait_until(lambda: times_told(healthy, [*for_both, *for_one, *later]) == {1})
        letters = {"_id": {"$in": [event.id for event in (*for_both, *for_one, *later)]}}
        assert await park.database["dead_letters"].count_documents(letters) == 0
