"""Who a player is and may do, and the ledger of their points."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from accounts.errors import RankRefused, UnknownPlace
from accounts.models import (
    Account,
    ConnectAnswer,
    MemberAnswer,
    MemberQuery,
    Person,
    ProfileAnswer,
    ProfileQuery,
)
from accounts.plugins import Identity
from accounts.plugins.stored import Links
from accounts.ranks import Ranks, record_ranks
from accounts.repository import MOST_SKEW, Accounts
from common.actors import Actor
from common.coalesce import Coalescer, Merger
from common.errors import Unavailable, UserNotFound
from common.events import CertificationGranted, CertificationRevoked, ShiftLogged
from common.group import Group
from common.messaging.handling import Handled, Outcome
from common.messaging.limits import ConsumerLimits
from common.mongo import Database, Session, is_duplicate, transaction
from common.outbox import Outbox
from common.query import PersonQuery

_ACTOR_SECONDS = 1.0

T = TypeVar("T")


class AccountsService:
    """The use cases of accounts."""

    def __init__(
        self,
        group: Group,
        database: Database,
        outbox: Outbox,
        identities: Sequence[Identity],
        ranks: Ranks,
        limits: ConsumerLimits,
    ) -> None:
        self._group = group
        self._database = database
        self._outbox = outbox
        self._identities = identities
        self._ranks = ranks
        self._limits = limits
        self._accounts = Accounts(database)
        self._links = Links(database)
        self._reads = Coalescer[int, Account | None](self._accounts.by_ids)
        self._people_by_id = Merger[int, Person | None](lambda user: self._first(lambda one: one.by_id(user)))
        self._people_by_name = Merger[str, Person | None](
            lambda name: self._first(lambda one: one.by_username(name))
        )
        self._users_by_discord = Merger(self._user_by_discord)

    async def connect(self, place: int, user: int, *, training: bool) -> tuple[ConnectAnswer, int | None]:
        """What a game server needs to know of a player who joins, and the age of the rank (see Standing).

        Raises UnknownPlace, and Unavailable where nobody can say which rank the player has.
        """
        rules = self._group.places.get(place)
        if rules is None:
            raise UnknownPlace
        account = await self._reads.submit(user)
        # Not `of`, as most are known and this is the busiest route.
        standing = self._ranks.known(user, account) or await self._ranks.ask(user, account)
        rankid = standing.counts_as
        clearance = self._group.clearance_at(rankid)
        if training and self._group.training.grants_all:
            codes = list(self._group.certifications)
        else:
            codes = account.held(self._group) if account else []
        allowed = clearance >= rules.minimum_clearance
        if training:
            allowed = allowed and self._group.is_trainee_or_cast(rankid)
        answer = ConnectAnswer(certifications=",".join(codes), auth=allowed, clearance=clearance)
        return answer, standing.age

    async def profile(self, query: ProfileQuery) -> tuple[ProfileAnswer, int | None]:
        """All that is known of a user, and the age of the rank (see Standing).

        Raises UserNotFound, and Unavailable where nobody can say who they are or which rank they have.
        """
        person, account = await self._look_up(query)
        standing = await self._ranks.of(person.id, account)
        rank = self._group.rank_at(standing.rankid)
        answer = ProfileAnswer(
            id=person.id,
            account=account.account if account else None,
            username=person.username,
            points=account.points if account else 0,
            rank=rank.name,
            rankid=rank.rankid,
            cast=self._group.is_cast(standing.rankid),
            certifications=account.held(self._group) if account else [],
        )
        return answer, standing.age

    async def member(self, query: MemberQuery) -> MemberAnswer:
        """A user's id, name and rank for the other services, and who the moderator is whom they name.

        Raises UserNotFound, and Unavailable as `profile` does; with `fresh`, also if the rank cannot be read now.
        """
        if query.moderator is None:
            return await self._member(query)
        found, actor = await asyncio.gather(self._member(query), self._actor(query.moderator))
        return found.model_copy(update={"actor": actor})

    async def _actor(self, moderator: str) -> Actor:
        """Who a moderator is; by the Discord account alone where no link is known within a second."""
        kind, _, number = moderator.partition(":")
        if kind == "roblox":
            return Actor(by=moderator)
        user = None
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(_ACTOR_SECONDS):
                user = await self._users_by_discord.ask(int(number))
        return Actor(by=moderator) if user is None else Actor(by=f"roblox:{user}", via=moderator)

    async def _member(self, query: MemberQuery) -> MemberAnswer:
        person, account = await self._look_up(query)
        if query.fresh:
            rankid = await self._ranks.fresh(person.id, account)
        else:
            rankid = (await self._ranks.of(person.id, account)).counts_as
        return MemberAnswer(id=person.id, username=person.username, rankid=rankid)

    async def set_rank(self, user: int, rankid: int) -> MemberAnswer:
        """Give a user a rank of the ladder; doing it again changes nothing. Raises RankRefused and Unavailable.

        The plugin is asked first, outside the transaction: a crash between the two leaves a rank that the
        same call, made again, records.
        """
        if self._group.rank_at(rankid).rankid != rankid:
            raise RankRefused("the ladder has no such rank")
        await self._ranks.set(user, rankid)
        person, _ = await self._look_up(PersonQuery(id=user))

        async def work(session: Session) -> None:
            ranked = [(user, rankid, person.username)]
            await record_ranks(session, self._group, self._accounts, self._outbox, ranked)

        await transaction(self._database, work)
        self._outbox.wake()
        return MemberAnswer(id=user, username=person.username, rankid=rankid)

    async def record_shifts(self, shifts: Sequence[ShiftLogged]) -> list[Outcome]:
        """Count each shift once, however often it comes."""
        unique = {shift.id: shift for shift in shifts}

        async def record_all(session: Session) -> set[str]:
            await self._accounts.record(session, list(unique.values()))
            return set()

        async def record_new(session: Session) -> set[str]:
            before = await self._accounts.recorded(session, unique)
            new = [shift for shift in unique.values() if shift.id not in before]
            if new:
                await self._accounts.record(session, new)
            return before

        locked_seconds = self._limits.locked_seconds
        try:
            # Few batches hold one that was counted before: to ask first would cost all of them a round trip.
            counted = await transaction(self._database, record_all, locked_seconds=locked_seconds)
        except Exception as error:
            if not is_duplicate(error):
                raise
            counted = await transaction(self._database, record_new, locked_seconds=locked_seconds)
        outcomes: list[Outcome] = []
        for shift in shifts:
            outcomes.append(Handled.UNCHANGED if shift.id in counted else Handled.DONE)
            counted.add(shift.id)
        return outcomes

    async def record_certifications(
        self, changes: Sequence[CertificationGranted | CertificationRevoked]
    ) -> list[Outcome]:
        """Keep the newest of each certification."""

        async def work(session: Session) -> list[bool]:
            return await self._accounts.keep_newest(session, changes)

        newer = await transaction(self._database, work, locked_seconds=self._limits.locked_seconds)
        return [Handled.DONE if is_newer else Handled.UNCHANGED for is_newer in newer]

    async def _look_up(self, query: PersonQuery) -> tuple[Person, Account | None]:
        if query.id is not None:
            return await self._by_id(query.id)
        if query.discord is not None:
            return await self._by_discord(query.discord)
        return await self._by_username(query.username or "")

    async def _by_id(self, user: int) -> tuple[Person, Account | None]:
        account = await self._reads.submit(user)
        if account and account.username is not None:
            self._ranks.refresh_old_name(account)
            return Person(id=user, username=account.username), account
        if person := await self._people_by_id.ask(user):
            return await self._newest(person, account), account
        if account:  # earned points here, though no plugin knows a name
            return Person(id=user, username=str(user)), account
        raise UserNotFound

    async def _by_discord(self, discord: int) -> tuple[Person, Account | None]:
        user = await self._users_by_discord.ask(discord)
        if user is None:
            raise UserNotFound
        return await self._by_id(user)

    async def _user_by_discord(self, discord: int) -> int | None:
        """The user as an identity plugin knows now, or else as one of them learnt that is away."""
        try:
            return await self._first(lambda one: one.by_discord(discord))
        except Unavailable:
            user = await self._links.find(discord, self._group.plugins.identity)
            if user is None:
                raise
            return user

    async def _by_username(self, username: str) -> tuple[Person, Account | None]:
        away: Unavailable | None = None
        try:
            if person := await self._people_by_name.ask(username):
                account = await self._reads.submit(person.id)
                return await self._newest(person, account), account
        except Unavailable as error:
            away = error
        account = await self._accounts.by_username(username)
        if account and account.username is not None:
            return Person(id=account.id, username=account.username), account
        raise away or UserNotFound()

    async def _newest(self, person: Person, account: Account | None) -> Person:
        """The person by the name that was read last; one that the account does not show yet is noted there."""
        if account is None or account.username == person.username:
            return person
        read_at = person.read_at or datetime.now(UTC)
        noted_at = account.username_read_at
        if account.username is not None and noted_at and read_at < noted_at <= datetime.now(UTC) + MOST_SKEW:
            return Person(id=person.id, username=account.username)
        await self._accounts.note_username(person.id, person.username, read_at)
        return person

    async def _first(self, ask: Callable[[Identity], Awaitable[T | None]]) -> T | None:
        """The first that an identity plugin knows. Raises Unavailable when none does, and one of them is away."""
        away: Unavailable | None = None
        for identity in self._identities:
            try:
                if found := await ask(identity):
                    return found
            except Unavailable as error:
                away = error
        if away:
            raise away
        return None
