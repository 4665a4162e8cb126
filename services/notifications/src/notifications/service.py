"""What is news, and who was told of it already."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from common import metrics
from common.errors import ServiceError, Unavailable
from common.events import (
    ApplicationApproved,
    ApplicationSubmitted,
    CertificationGranted,
    CertificationRevoked,
    Event,
    ShiftLogged,
)
from common.group import Group
from common.mongo import Database, is_outage
from common.outgoing.peer import Peer
from notifications.models import News
from notifications.plugins import Notifier
from notifications.repository import Repository

TOO_OLD = timedelta(days=1)
"""What happened longer ago is no news any more."""

_AT_ONCE = 25
_NAME_SECONDS = 0.5


class Notifications:
    """Tells each notifier, by name, what happened."""

    def __init__(
        self, group: Group, database: Database, accounts: Peer, notifiers: Mapping[str, Notifier]
    ) -> None:
        self._group = group
        self._repository = Repository(database)
        self._accounts = accounts
        self._notifiers = notifiers

    async def tell(self, events: Sequence[Event]) -> int:
        """Tell every notifier what it was not told yet; answers how much of it all of them knew.

        One that fails keeps none of the others from being told. Raises what one of them raised.
        """
        oldest = datetime.now(UTC) - TOO_OLD
        fresh = {
            news.id: news
            for event in sorted(events, key=lambda event: event.occurred_at)  # what waited comes in any order
            if event.occurred_at > oldest
            for news in news_of(event, self._group)
        }
        expired = sum(
            1 for event in events if event.occurred_at <= oldest for _ in news_of(event, self._group)
        )
        known: list[int] = []
        errors: list[Exception] = []
        for name, notifier in self._notifiers.items():
            wanted = [news for news in fresh.values() if notifier.wants(news.kind)]
            try:
                known.append(await self._tell(name, notifier, wanted) if wanted else 0)
            except Exception as error:
                errors.append(error)
        if errors:
            # An outage first: what one can never tell may only have to wait for another.
            raise next((one for one in errors if isinstance(one, Unavailable) or is_outage(one)), errors[0])
        for name in self._notifiers:
            metrics.NOTIFICATIONS.labels(name, "expired").inc(expired)
        return min(known)

    async def _tell(self, name: str, notifier: Notifier, wanted: Sequence[News]) -> int:
        """Tell one notifier; answers how much of it was known. What is told is remembered message by message."""
        keys = {news.id: f"{name}:{news.id}" for news in wanted}
        known = await self._repository.sent(keys.values())
        waiting = [news for news in wanted if keys[news.id] not in known]
        are_elsewhere = False
        while waiting:
            first, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            mine = [news for news in first if await self._repository.take(keys[news.id])]
            are_elsewhere = are_elsewhere or len(mine) < len(first)
            if not mine:
                continue
            told = 0
            try:
                told = await notifier.tell(await self._named(mine))
                await self._repository.note_sent(keys[news.id] for news in mine[:told])
                metrics.NOTIFICATIONS.labels(name, "sent").inc(told)
            finally:
                if told < len(mine):
                    await self._repository.release(keys[news.id] for news in mine[told:])
            waiting = mine[told:] + waiting
        if are_elsewhere:
            raise Unavailable("what another replica is sending")  # it may fail to
        return len(known)

    async def _named(self, news: Sequence[News]) -> list[News]:
        """The news, with the usernames that their events did not tell."""
        unnamed = {one.fields["id"] for one in news if "username" not in one.fields}
        names = dict(zip(unnamed, await asyncio.gather(*map(self._name, unnamed)), strict=True))
        return [
            replace(one, fields={"username": names.get(one.fields["id"], ""), **one.fields}) for one in news
        ]

    async def _name(self, user: str) -> str:
        """The user's name; the id where accounts does not tell it soon."""
        try:
            found = await self._accounts.get("/internal/member", seconds=_NAME_SECONDS, id=user)
        except ServiceError:
            return user
        return str(found["username"])


def news_of(event: Event, group: Group) -> Iterator[News]:
    """What people may want to know of an event; nothing of most shifts."""
    match event:
        case ApplicationSubmitted():
            fields = {"id": str(event.user), "url": event.url, "copy_url": event.copy_url or event.url}
            yield News(event.id, "application_submitted", event.occurred_at, fields)
        case ApplicationApproved():
            fields = {
                "username": event.username,
                "id": str(event.user),
                "rank": event.rank,
                "moderator": _moderator(event),
            }
            yield News(event.id, "application_approved", event.occurred_at, fields)
        case CertificationGranted() | CertificationRevoked():
            known = group.certifications.get(event.certification)
            fields = {
                "username": event.username,
                "id": str(event.user),
                "certification": known.name if known and known.name else event.certification,
                "code": event.certification,
                "moderator": _moderator(event),
            }
            is_granted = isinstance(event, CertificationGranted)
            kind = "certification_granted" if is_granted else "certification_revoked"
            # Not the event's id: what `callboard verify --repair` publishes again has another.
            change = f"{event.user}:{event.certification}:{event.version}"
            yield News(change, kind, event.occurred_at, fields)
        case ShiftLogged():
            kinds = {
                "shift_long": event.duration >= group.notifications.long_shift_hours * 3600,
                "shift_overlap": "overlap" in event.flags,
            }
            for kind in (kind for kind, is_so in kinds.items() if is_so):
                yield News(f"{event.id}:{kind}", kind, event.occurred_at, _fields_of_shift(event, group))


def _moderator(event: ApplicationApproved | CertificationGranted | CertificationRevoked) -> str:
    """Who decided: by the Discord account, if one is known, as that is what people know each other by."""
    return (event.actor and event.actor.via) or event.moderator


def _fields_of_shift(shift: ShiftLogged, group: Group) -> dict[str, str]:
    known = group.places.known.get(shift.place)
    return {
        "id": str(shift.user),
        "place": known.name if known and known.name else str(shift.place),
        "place_id": str(shift.place),
        "duration": _time(shift.duration),
        "credited": _time(shift.credited_seconds),
        "points": str(shift.points),
    }


def _time(seconds: int) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0)
    return " ".join(parts)
