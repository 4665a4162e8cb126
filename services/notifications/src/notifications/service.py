"""What is news, and who was told of it already."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from common.messaging.handling import Handled, Outcome
from common.mongo import Database, is_outage
from common.outgoing.peer import Peer
from notifications.models import News
from notifications.plugins import Notifier
from notifications.repository import Repository
from notifications.settings import NotificationsLimits

TOO_OLD = timedelta(days=1)
"""What happened longer ago is no news any more."""


class Notifications:
    """Tells each notifier, by name, what happened."""

    def __init__(
        self,
        limits: NotificationsLimits,
        group: Group,
        database: Database,
        accounts: Peer,
        notifiers: Mapping[str, Notifier],
    ) -> None:
        self._limits = limits
        self._group = group
        self._repository = Repository(database, limits)
        self._accounts = accounts
        self._notifiers = notifiers

    async def tell(self, events: Sequence[Event]) -> list[Outcome]:
        """Tell every notifier what it was not told yet; an event is done once all of them know it.

        No notifier waits for another, and what one was told it is not told again while the event waits for another.
        """
        oldest = datetime.now(UTC) - TOO_OLD
        news = {event.id: list(news_of(event, self._group)) for event in events}
        fresh: dict[str, News] = {}
        expired: dict[str, News] = {}
        for event in sorted(events, key=lambda event: event.occurred_at):  # what waited comes in any order
            (fresh if event.occurred_at > oldest else expired).update({one.id: one for one in news[event.id]})
        told = await asyncio.gather(
            *(self._tell(name, notifier, fresh.values()) for name, notifier in self._notifiers.items()),
            return_exceptions=True,
        )
        outcomes: dict[str, list[Outcome]] = {one: [] for one in fresh | expired}
        for of_notifier in told:
            if isinstance(of_notifier, BaseException):
                raise of_notifier
            for one, outcome in of_notifier.items():
                outcomes[one].append(outcome)
        if expired:
            await self._note_expired(expired.values())
        return [
            _outcome([outcome for one in news[event.id] for outcome in outcomes[one.id]]) for event in events
        ]

    async def _tell(self, name: str, notifier: Notifier, news: Collection[News]) -> dict[str, Outcome]:
        """Tell one notifier; answers what became of each that it wants. What is told is remembered message by message.

        Which of several a notifier refuses for what they say, only ever smaller messages tell.
        """
        keys = {one.id: f"{name}:{one.id}" for one in news if notifier.wants(one.kind)}
        if not keys:
            return {}
        known = await self._repository.sent(keys.values())
        outcomes: dict[str, Outcome] = {one: Handled.UNCHANGED for one, key in keys.items() if key in known}
        waiting = [one for one in news if one.id in keys and one.id not in outcomes]
        at_once = self._limits.at_once
        while waiting:
            first, waiting = waiting[:at_once], waiting[at_once:]
            mine = [one for one in first if await self._repository.take(keys[one.id])]
            for one in first:
                if one not in mine:  # whoever is sending it may fail to
                    outcomes[one.id] = Unavailable("what another replica is sending")
            if not mine:
                continue
            count = 0
            try:
                count = await notifier.tell(await self._named(mine))
                await self._repository.note_sent(keys[one.id] for one in mine[:count])
                metrics.NOTIFICATIONS.labels(name, "sent").inc(count)
                outcomes |= dict.fromkeys((one.id for one in mine[:count]), Handled.DONE)
                waiting = mine[count:] + waiting
                at_once = min(2 * at_once, self._limits.at_once)
            except Unavailable as error:
                outcomes |= dict.fromkeys((one.id for one in mine + waiting), error)
                waiting = []
            except Exception as error:
                if is_outage(error):
                    raise
                if len(mine) == 1:
                    outcomes[mine[0].id] = error
                else:
                    waiting = mine + waiting
                at_once = (len(mine) + 1) // 2
            finally:
                if count < len(mine):
                    await self._repository.release(keys[one.id] for one in mine[count:])
        return outcomes

    async def _note_expired(self, news: Collection[News]) -> None:
        """Count what a notifier wanted and was not told before it was too old."""
        for name, notifier in self._notifiers.items():
            keys = [f"{name}:{one.id}" for one in news if notifier.wants(one.kind)]
            sent = await self._repository.sent(keys)
            metrics.NOTIFICATIONS.labels(name, "expired").inc(len(keys) - len(sent))

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
            found = await self._accounts.get("/internal/member", seconds=self._limits.name_seconds, id=user)
        except ServiceError:
            return user
        return str(found["username"])


def _outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """What became of an event, of whose news these are the outcomes.

    It waits as long as one may still be told: what another can never be told is buried after that.
    """
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if errors:
        return next((error for error in errors if isinstance(error, Unavailable)), errors[0])
    is_known = bool(outcomes) and all(outcome is Handled.UNCHANGED for outcome in outcomes)
    return Handled.UNCHANGED if is_known else Handled.DONE


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
