"""The walk through all members of the group, so that every rank is known before anybody asks for it."""

import asyncio
import logging
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

from accounts.models import CompletedSync, Sync
from accounts.plugins import CursorLost, OutsideRanking
from accounts.ranks import Ranks, age_of
from accounts.repository import LEASE, Accounts, Syncs
from common import metrics
from common.errors import Unavailable
from common.events import new_id
from common.group import Group
from common.mongo import Database, is_outage
from common.outgoing.providers import Urgency

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
_STEP_SECONDS = 20.0  # below LEASE
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_MOST_TRIES = 8


class Walker:
    """Walks when that is due, unless another replica does; what it has done so far is in the database.

    Whoever the list lacks, though what is stored of them is a rank above the lowest, is asked for one by one:
    a list that is broken demotes nobody, and is not relied on. One who cannot be asked for keeps their rank.
    """

    def __init__(self, group: Group, database: Database, ranks: Ranks, ranking: OutsideRanking) -> None:
        self._group = group
        self._ranks = ranks
        self._ranking = ranking
        self._accounts = Accounts(database)
        self._syncs = Syncs(database)
        self._name = new_id()
        self._failures: Counter[int] = Counter()
        """How often users of this walk were asked for in vain."""
        self._started_at = datetime.now(UTC)

    async def run(self) -> None:
        """Look every few seconds how the walks stand, and walk when it is due, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning("the sync of ranks waits for MongoDB: %s", type(error).__name__)
            await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - spreads replicas

    async def learn(self) -> None:
        """Read which list of members is the last complete one."""
        self._note((await self._syncs.find()).last)

    async def look(self) -> None:
        """Learn of the last walk that was completed, and make the next if it is due and nobody else does."""
        sync = await self._syncs.find()
        self._note(sync.last)
        if not self._is_due(sync):
            return
        claimed = await self._syncs.claim(self._name)
        if claimed is None:
            return
        if claimed.began_at is None and self._is_due(claimed):  # it may have been completed meanwhile
            claimed = await self._syncs.begin(self._name)
        if claimed and claimed.began_at is not None:
            await self._walk(claimed)

    def _note(self, last: CompletedSync | None) -> None:
        self._ranks.note_list(last)
        age = datetime.now(UTC) - (last.began_at if last else self._started_at)
        late = (age - self._group.ranks.refresh_after).total_seconds()
        metrics.SYNC_LATE.set(max(0.0, late))

    def _is_due(self, sync: Sync) -> bool:
        if sync.began_at is not None or sync.requested_at is not None or sync.last is None:
            return True
        return age_of(sync.last.began_at) >= self._group.ranks.refresh_after

    async def _walk(self, sync: Sync) -> None:
        """Walk from where it stands to its end, or until another replica has taken the lease over."""
        self._failures.clear()
        failures = lost = 0
        state: Sync | None = sync
        while state is not None:
            self._note(state.last)
            try:
                state = await self._step(state)
                failures = 0
            except CursorLost:
                lost += 1
                if state := await self._pause(lost, "its place in the list was lost, it begins anew"):
                    state = await self._syncs.begin(self._name)
            except Unavailable as error:
                failures += 1
                state = await self._pause(failures, str(error))

    async def _pause(self, times: int, why: str) -> Sync | None:
        """Say why, and wait, longer each time; None when another took the lease over."""
        doublings = min(times - 1, 20)  # after a day, no float holds what all of them come to
        seconds = min(_FIRST_PAUSE_SECONDS * 2**doublings, _LONGEST_PAUSE_SECONDS)
        seconds *= random.uniform(0.5, 1.5)  # noqa: S311 - spreads callers
        logger.warning("the sync of ranks waits: %s", why)
        until = datetime.now(UTC) + timedelta(seconds=seconds) + LEASE
        state = await self._syncs.advance(self._name, {"trouble": why, "claimed_until": until})
        await asyncio.sleep(seconds)
        return state

    async def _step(self, sync: Sync) -> Sync | None:
        """Read the next page of the list or, after the last, ask for one whom it lacked; None at the end."""
        if sync.began_at is None:
            return None
        if sync.began_at > datetime.now(UTC):  # the clock was set back: what is read now would seem too old
            raise CursorLost
        if sync.cursor is None:
            return await self._ask_for_one(sync, sync.began_at)
        read_at = datetime.now(UTC)
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                page = await self._ranking.members(sync.cursor)
        except TimeoutError:
            raise Unavailable("ranking") from None
        if page.next and page.next == sync.cursor:
            raise Unavailable("the next page of the list of members")
        members = dict(page.members)
        changed = await self._ranks.record(members, read_at)
        progress = {
            "seen": sync.seen + len(members),
            "changed": sync.changed + changed,
            "missed": sync.missed + page.omitted,
        }
        return await self._syncs.advance(self._name, {"cursor": page.next or None, **progress})

    async def _ask_for_one(self, sync: Sync, began_at: datetime) -> Sync | None:
        lowest = self._group.ranks.ladder[0].rankid
        given_up = [user for user, failures in self._failures.items() if failures >= _MOST_TRIES]
        user = await self._accounts.ranked_but_unread(lowest, began_at, given_up)
        if user is None:
            await self._complete(sync, began_at)
            return None
        try:
            rankid, is_changed = await self._ranks.read_again(user, Urgency.BACKGROUND, _STEP_SECONDS)
        except Unavailable:
            self._failures[user] += 1
            if self._failures[user] < _MOST_TRIES:
                raise
            logger.warning("the sync of ranks leaves user %d out, who could not be asked for", user)
            return await self._syncs.advance(self._name, {"missed": sync.missed + 1})
        progress = {"changed": sync.changed + is_changed, "missed": sync.missed + (rankid > lowest)}
        return await self._syncs.advance(self._name, progress)

    async def _complete(self, sync: Sync, began_at: datetime) -> None:
        completed = CompletedSync(
            began_at=began_at,
            finished_at=datetime.now(UTC),
            seen=sync.seen,
            changed=sync.changed,
            missed=sync.missed,
        )
        await self._syncs.complete(self._name, completed)
        self._note(completed)
        logger.info("ranks are synchronised: %d members seen, %d changed", sync.seen, sync.changed)
        if sync.missed:
            logger.warning(
                "the list of members lacked %d who are members, or who could not be read or asked for: "
                "it is not relied on",
                sync.missed,
            )
