"""Which rank a user has, and how what is stored of ranks and names that are kept elsewhere stays young."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from accounts.models import Account, CompletedSync
from accounts.plugins import Identity, OutsideRanking, Ranking
from accounts.repository import MOST_SKEW, STALE_FOR, Accounts
from common import metrics
from common.coalesce import Merger
from common.errors import Unavailable
from common.events import RankChanged
from common.group import Group
from common.mongo import Database, Session, is_outage, transaction
from common.outbox import Outbox
from common.outgoing.providers import Urgency

logger = logging.getLogger(__name__)

REFRESHERS = 4
"""How many of `Ranks.keep_young` run at once."""

# What applications waits for an approval is made of the last two (`_RANK_SECONDS` there), and is longer.
_STRANGER_SECONDS = 2.0
_BACKGROUND_SECONDS = 10.0
_FRESH_SECONDS = 2.0
_SET_SECONDS = 3.0

_NAME_AGE = timedelta(days=1)
_MOST_WAITING = 1_000
_MOST_STRANGERS = 100_000
_PAUSE_SECONDS = 1.0


class Standing(NamedTuple):
    """A user's rank: as it was read last, what it counts as, and how old that is in seconds.

    The age is None where ranks are kept here, and for a rank that was stored before ages were.
    """

    rankid: int
    counts_as: int
    age: int | None


class Ranks:
    """The ranks of all users.

    A ranking plugin that keeps its ranks here is asked, or what is stored is right. Otherwise what is stored
    is the answer, whatever the plugin's provider is up to: it is read again in the background once it is
    older than `ranks.refresh_after`, and counts as the lowest rank once it is older than `ranks.trust_for`.
    """

    def __init__(
        self,
        group: Group,
        database: Database,
        outbox: Outbox,
        identities: Sequence[Identity],
        ranking: Ranking,
    ) -> None:
        self._group = group
        self._database = database
        self._outbox = outbox
        self._identities = identities
        self._ranking = ranking
        self._is_outside = isinstance(ranking, OutsideRanking)
        self._lowest = group.ranks.ladder[0].rankid
        self._accounts = Accounts(database)
        self._listed_at: datetime | None = None
        self._strangers: dict[int, datetime] = {}
        self._questions = Merger(self._ask_of_stranger)
        self._due: asyncio.Queue[int] = asyncio.Queue(_MOST_WAITING)
        self._waiting: set[int] = set()

    def known(self, user: int, account: Account | None) -> Standing | None:
        """The rank as far as it is at hand, to be read again if it is due; None when it must be asked for."""
        rankid = account.rankid if account else None
        if not self._is_outside:
            return None if rankid is None else Standing(rankid, rankid, None)
        if account is None or rankid is None:
            return self._as_stranger(user, self._group.ranks.refresh_after)
        read_at = self._read_at(account)
        if read_at is None:  # stored before ages were
            self._refresh_soon(user)
            return Standing(rankid, rankid, None)
        age = age_of(read_at)
        if age >= self._group.ranks.refresh_after:
            self._refresh_soon(user)
        counts_as = rankid if age <= self._group.ranks.trust_for else self._lowest
        return Standing(rankid, counts_as, int(age.total_seconds()))

    async def of(self, user: int, account: Account | None) -> Standing:
        """The rank as `known` or, failing that, `ask` answers it. Raises Unavailable as `ask` does."""
        return self.known(user, account) or await self.ask(user, account)

    async def ask(self, user: int, account: Account | None) -> Standing:
        """The rank of a user for whom `known` has no answer. Where ranks are kept elsewhere, this takes 2 s at most.

        Without an answer from there, a user is a guest if the last complete list of members lacked them, or they
        were a guest when they were last asked for, for as long as ranks are trusted. Otherwise nobody can say what
        they are, and a guess would shut staff out: raises Unavailable.
        """
        if self._is_outside:
            try:
                async with asyncio.timeout(_STRANGER_SECONDS):
                    return await self._questions.ask(user)
            except (TimeoutError, Unavailable):
                if guest := self._as_stranger(user, self._group.ranks.trust_for):
                    return guest
                raise Unavailable("ranking") from None
        rankid = await self._ranking.read(user, Urgency.PLAYER)
        if rankid is None:
            return Standing(self._lowest, self._lowest, None)
        if account:
            await self._accounts.adopt_ranks([user], rankid, datetime.now(UTC))
        return Standing(rankid, rankid, None)

    async def fresh(self, user: int, account: Account | None) -> int:
        """The rank as it is now. Raises Unavailable where it is kept elsewhere and cannot be had in 2 s."""
        if self._is_outside:
            rankid, _ = await self.read_again(user, Urgency.DECISION, _FRESH_SECONDS)
            return rankid
        return (await self.of(user, account)).rankid

    async def set(self, user: int, rankid: int) -> None:
        """Set the rank where it is kept; doing it again changes nothing. Raises RankRefused and Unavailable."""
        try:
            async with asyncio.timeout(_SET_SECONDS):
                await self._ranking.set(user, rankid)
        except TimeoutError:
            raise Unavailable("ranking") from None

    def refresh_old_name(self, account: Account) -> None:
        """Have the username read again in the background if it is older than a day."""
        if _has_old_name(account):
            self._refresh_soon(account.id)

    async def keep_young(self) -> None:
        """Read again what is due, one at a time, until cancelled."""
        while True:
            user = await self._due.get()
            outcome = "failed"
            try:
                outcome = await self._refresh(user)
            except Exception as error:
                if not isinstance(error, Unavailable) and not is_outage(error):
                    raise
                logger.info("what is stored of a user was not read again: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
            finally:
                self._waiting.discard(user)
                metrics.REFRESHES_WAITING.set(len(self._waiting))
                metrics.REFRESHES.labels(outcome).inc()

    async def read_again(self, user: int, urgency: Urgency, seconds: float) -> tuple[int, bool]:
        """The rank as it is now, recorded, and whether it is another one.

        Where a rank set from here goes before what was read, that rank is the answer. Raises Unavailable.
        """
        read_at = datetime.now(UTC)
        try:
            async with asyncio.timeout(seconds):
                found = await self._ranking.read(user, urgency)
        except TimeoutError:
            raise Unavailable("ranking") from None
        rankid = self._lowest if found is None else found
        if rankid <= self._lowest:
            self._strangers.pop(user, None)
            self._strangers[user] = read_at
            if len(self._strangers) > _MOST_STRANGERS:
                del self._strangers[next(iter(self._strangers))]
        is_changed = await self.record({user: rankid}, read_at) == 1
        (account,) = await self._accounts.by_ids([user])
        stored = account.rankid if account else None
        return rankid if stored is None else stored, is_changed

    async def record(self, ranks: Mapping[int, int], read_at: datetime) -> int:
        """Note the ranks (by user) that were read; answers how many of them are other ones.

        Who has no account gets one, unless the rank is the lowest.
        """
        accounts = await self._accounts.by_ids(list(ranks))
        same: list[int] = []
        first: dict[int, list[int]] = {}
        other: list[tuple[int, int, str | None]] = []
        for (user, rankid), account in zip(ranks.items(), accounts, strict=True):
            if account is None:
                other += [(user, rankid, None)] if rankid > self._lowest else []
            elif account.rankid is None:
                first.setdefault(rankid, []).append(user)
            elif account.rankid == rankid:
                same.append(user)
            else:
                other.append((user, rankid, None))
        if same:
            await self._accounts.confirm_ranks(same, read_at)
        for rankid, users in first.items():
            await self._accounts.adopt_ranks(users, rankid, read_at)
        if not other:
            return 0

        async def work(session: Session) -> int:
            return await record_ranks(session, self._group, self._accounts, self._outbox, other, read_at)

        changed = await transaction(self._database, work)
        self._outbox.wake()
        return changed

    def note_list(self, last: CompletedSync | None) -> None:
        """Take whoever the last complete list of members lacked for one who has the lowest rank, for a while."""
        if last is not None and last.missed == 0:
            self._listed_at = last.began_at

    def _as_stranger(self, user: int, max_age: timedelta) -> Standing | None:
        learnt_at = _latest(self._listed_at, self._strangers.get(user))
        if learnt_at is None:
            return None
        age = age_of(learnt_at)
        if age >= max_age:
            return None
        return Standing(self._lowest, self._lowest, int(age.total_seconds()))

    def _read_at(self, account: Account) -> datetime | None:
        is_lowest = account.rankid is not None and account.rankid <= self._lowest
        return _latest(account.rank_read_at, self._listed_at if is_lowest else None)

    async def _ask_of_stranger(self, user: int) -> Standing:
        # Whoever asked may be gone before there is an answer: then it serves the next.
        rankid, _ = await self.read_again(user, Urgency.PLAYER, _BACKGROUND_SECONDS)
        return Standing(rankid, rankid, 0)

    def _refresh_soon(self, user: int) -> None:
        if user in self._waiting:
            return
        if self._due.full():
            metrics.REFRESHES.labels("dropped").inc()
            return
        self._waiting.add(user)
        self._due.put_nowait(user)
        metrics.REFRESHES_WAITING.set(len(self._waiting))

    async def _refresh(self, user: int) -> str:
        """Read again what is due of a user, and answer how the rank is."""
        (account,) = await self._accounts.by_ids([user])
        is_changed = False
        if account and self._is_outside and account.rankid is not None:
            read_at = self._read_at(account)
            if read_at is None or age_of(read_at) >= self._group.ranks.refresh_after:
                _, is_changed = await self.read_again(user, Urgency.BACKGROUND, _BACKGROUND_SECONDS)
        if account and _has_old_name(account):
            await self._read_name(account)
        return "changed" if is_changed else "unchanged"

    async def _read_name(self, account: Account) -> None:
        read_at = datetime.now(UTC)
        username = account.username or ""
        for identity in self._identities:
            if person := await identity.by_id(account.id):
                username, read_at = person.username, person.read_at or read_at
                break
        await self._accounts.note_username(account.id, username, read_at)


def age_of(moment: datetime) -> timedelta:
    """How long ago that was. What lies as far ahead is as old: a clock was wrong, and nothing may last for good."""
    return abs(datetime.now(UTC) - moment)


async def record_ranks(
    session: Session,
    group: Group,
    accounts: Accounts,
    outbox: Outbox,
    ranked: Sequence[tuple[int, int, str | None]],
    read_at: datetime | None = None,
) -> int:
    """Note ranks (user, rankid, username if it is at hand) and their events in the caller's transaction.

    Those that were told last stay; with `read_at`, which is when they were read and not set, so do those that
    were read or set later, and those that were set so shortly before that a provider may still answer from an older
    copy. Answers how many others there are.
    """
    before = await accounts.find(session, [user for user, *_ in ranked])
    lowest = group.ranks.ladder[0].rankid
    replaced: dict[int, tuple[int, ...]] = {}
    events: list[RankChanged] = []
    changes: list[tuple[int, int, int]] = []
    same: list[int] = []
    for user, rankid, username in ranked:
        account = before.get(user)
        if account and read_at and not _is_believed(account, rankid, read_at):
            continue
        # A rank without a version was read from the plugin, where a crash may have left it untold.
        if account and account.rankid == rankid and account.rank_version:
            same.append(user)
            continue
        version = account.rank_version + 1 if account else 1
        name = username or (account.username if account else None)
        rank = group.rank_at(rankid)
        changes.append((user, rankid, version))
        if read_at is None:
            is_young = account and account.rank_set_at and age_of(account.rank_set_at) < STALE_FOR
            earlier = account.ranks_before if account and is_young else ()
            current = account.rankid if account else None
            replaced[user] = (*earlier, lowest if current is None else current)
        events.append(
            RankChanged(user=user, username=name, rank=rank.name, rankid=rank.rankid, version=version)
        )
    known_at = read_at or datetime.now(UTC)
    if same:
        await accounts.confirm_ranks(same, known_at, session)
    if events:
        await accounts.set_ranks(session, changes, known_at, replaced)
        await outbox.add(session, events)
    return len(events)


def _is_believed(account: Account, rankid: int, read_at: datetime) -> bool:
    """Whether a rank that was read from then on is newer than the stored one."""
    # Stored times have whole milliseconds: one that was set a moment later may seem to be a moment older.
    earliest = read_at.replace(microsecond=read_at.microsecond // 1000 * 1000)
    if account.rank_read_at and earliest <= account.rank_read_at <= datetime.now(UTC) + MOST_SKEW:
        return False
    is_just_set = account.rank_set_at and abs(read_at - account.rank_set_at) < STALE_FOR
    return not (is_just_set and rankid in account.ranks_before)


def _has_old_name(account: Account) -> bool:
    if account.username is None:
        return False
    return account.username_read_at is None or age_of(account.username_read_at) > _NAME_AGE


def _latest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), key=age_of, default=None)
