"""Who a player is, which rank they hold, and the ledger of their points."""

from collections.abc import Sequence

from accounts.errors import RankRefused, UnknownPlace
from accounts.models import (
    Account,
    ConnectAnswer,
    LocalPerson,
    MemberAnswer,
    Person,
    ProfileAnswer,
    ProfileQuery,
)
from accounts.plugins import Identity, Ranking
from accounts.plugins.local import local_rankid
from accounts.repository import Accounts, People
from common.coalesce import Coalescer
from common.errors import Unavailable, UserNotFound
from common.events import CertificationGranted, CertificationRevoked, RankChanged, ShiftLogged
from common.group import Group
from common.mongo import Database, Session, is_own_error, transaction
from common.outbox import Outbox
from common.providers import Urgency


class AccountsService:
    """The use cases of accounts."""

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
        self._accounts = Accounts(database)
        self._reads = Coalescer[int, Account | None](self._accounts.by_ids)

    async def connect(self, place: int, user: int, *, training: bool) -> ConnectAnswer:
        """What a game server needs to know of a player who joins. Raises UnknownPlace."""
        rules = self._group.places.get(place)
        if rules is None:
            raise UnknownPlace
        account = await self._reads.submit(user)
        rankid = await self._rankid(user, account)
        clearance = self._group.clearance_at(rankid)
        if training and self._group.training.grants_all:
            codes = list(self._group.certifications)
        else:
            codes = account.held(self._group) if account else []
        allowed = clearance >= rules.minimum_clearance
        if training:
            allowed = allowed and self._group.is_trainee_or_cast(rankid)
        return ConnectAnswer(certifications=",".join(codes), auth=allowed, clearance=clearance)

    async def profile(self, query: ProfileQuery) -> ProfileAnswer:
        """All that is known of a user. Raises UserNotFound."""
        person, account = await self._look_up(query)
        rankid = await self._rankid(person.id, account)
        rank = self._group.rank_at(rankid)
        return ProfileAnswer(
            id=person.id,
            account=account.account if account else None,
            username=person.username,
            points=account.points if account else 0,
            rank=rank.name,
            rankid=rank.rankid,
            cast=self._group.is_cast(rankid),
            certifications=account.held(self._group) if account else [],
        )

    async def member(self, query: ProfileQuery) -> MemberAnswer:
        """A user's id, name and rank for the other services. Raises UserNotFound."""
        person, account = await self._look_up(query)
        rankid = await self._rankid(person.id, account)
        return MemberAnswer(id=person.id, username=person.username, rankid=rankid)

    async def set_rank(self, user: int, rankid: int) -> MemberAnswer:
        """Give a user a rank of the ladder; doing it again changes nothing. Raises RankRefused.

        The plugin is asked first, outside the transaction: a crash between the two leaves a rank that the
        same call, made again, records.
        """
        if self._group.rank_at(rankid).rankid != rankid:
            raise RankRefused("the ladder has no such rank")
        await self._ranking.set(user, rankid)
        person, _ = await self._look_up(ProfileQuery(id=user))

        async def work(session: Session) -> None:
            await record_rank(
                session, self._group, self._accounts, self._outbox, user, person.username, rankid
            )

        await transaction(self._database, work)
        self._outbox.wake()
        return MemberAnswer(id=user, username=person.username, rankid=rankid)

    async def record_shifts(self, shifts: Sequence[ShiftLogged]) -> int:
        """Count each shift once, however often it comes; answers how many were counted before."""
        unique = {shift.id: shift for shift in shifts}

        async def record_all(session: Session) -> int:
            await self._accounts.record(session, list(unique.values()))
            return len(shifts) - len(unique)

        async def record_new(session: Session) -> int:
            before = await self._accounts.recorded(session, unique)
            new = [shift for shift in unique.values() if shift.id not in before]
            if new:
                await self._accounts.record(session, new)
            return len(shifts) - len(new)

        try:
            # Few batches hold one that was counted before: to ask first would cost all of them a round trip.
            return await transaction(self._database, record_all)
        except Exception as error:
            if not is_own_error(error):
                raise
        return await transaction(self._database, record_new)

    async def record_certifications(
        self, changes: Sequence[CertificationGranted | CertificationRevoked]
    ) -> int:
        """Keep the newest of each certification; answers how many were not newer."""
        return await self._accounts.keep_newest(changes)

    async def _rankid(self, user: int, account: Account | None) -> int:
        if account and account.rankid is not None:
            return account.rankid
        rankid = await self._ranking.read(user, Urgency.PLAYER)
        if rankid is None:
            return self._group.ranks.ladder[0].rankid
        if account:
            await self._accounts.adopt_rank(user, rankid)
        return rankid

    async def _look_up(self, query: ProfileQuery) -> tuple[Person, Account | None]:
        if query.id is not None:
            return await self._by_id(query.id)
        if query.discord is not None:
            return await self._by_discord(query.discord)
        return await self._by_username(query.username or "")

    async def _by_id(self, user: int) -> tuple[Person, Account | None]:
        account = await self._reads.submit(user)
        if account and account.username is not None:
            return Person(id=user, username=account.username), account
        for identity in self._identities:
            if person := await identity.by_id(user):
                if account:
                    await self._accounts.adopt_username(user, person.username)
                return person, account
        if account:  # earned points here, though no plugin knows a name
            return Person(id=user, username=str(user)), account
        raise UserNotFound

    async def _by_discord(self, discord: int) -> tuple[Person, Account | None]:
        for identity in self._identities:
            if user := await identity.by_discord(discord):
                return await self._by_id(user)
        raise UserNotFound

    async def _by_username(self, username: str) -> tuple[Person, Account | None]:
        away: Unavailable | None = None
        for identity in self._identities:
            try:
                person = await identity.by_username(username)
            except Unavailable as error:
                away = error
                continue
            if person:
                return person, await self._reads.submit(person.id)
        account = await self._accounts.by_username(username)
        if account and account.username is not None:
            return Person(id=account.id, username=account.username), account
        raise away or UserNotFound()


async def record_rank(
    session: Session,
    group: Group,
    accounts: Accounts,
    outbox: Outbox,
    user: int,
    username: str | None,
    rankid: int,
) -> None:
    """Note a rank and its event in the caller's transaction, unless it is the one that was told last."""
    before = await accounts.find(session, user)
    if before and before.rankid == rankid and before.rank_version:
        return  # a rank without a version was read from the plugin, where a crash may have left it untold
    version = before.rank_version + 1 if before else 1
    await accounts.set_rank(session, user, rankid, version)
    rank = group.rank_at(rankid)
    event = RankChanged(user=user, username=username, rank=rank.name, rankid=rank.rankid, version=version)
    await outbox.add(session, [event])


async def import_people(database: Database, group: Group, people: Sequence[LocalPerson]) -> None:
    """Add people for the local plugins, or change them; visible at once, all of them or none.

    Raises ConfigurationError for an unknown rank, and pymongo's BulkWriteError for a username or Discord id
    that another person has.
    """
    ranked = [(person, local_rankid(group, person.rank)) for person in people]
    accounts, outbox = Accounts(database), Outbox(database)

    async def work(session: Session) -> None:
        await People(database).put_all(session, ranked)
        existing = await accounts.existing(session, [person.id for person in people])
        for person, rankid in ranked:
            if person.id in existing:
                await accounts.rename(session, person.id, person.username)
                await record_rank(session, group, accounts, outbox, person.id, person.username, rankid)

    await transaction(database, work)
