"""Granting and revoking: each change and its event in one transaction."""

from collections.abc import Callable
from datetime import UTC, datetime

from certifications.errors import AlreadyHeld, NotHeld, RankTooLow, UnknownCertification
from certifications.models import Member, Record
from certifications.repository import Repository
from common.events import CertificationGranted, CertificationRevoked
from common.group import Group
from common.mongo import Database, Session, transaction
from common.outbox import Outbox
from common.peers import Peer


class Certifications:
    """The use cases of certifications."""

    def __init__(self, group: Group, database: Database, outbox: Outbox, accounts: Peer) -> None:
        self._group = group
        self._database = database
        self._repository = Repository(database)
        self._outbox = outbox
        self._accounts = accounts

    async def grant(self, code: str, username: str, moderator: str) -> Member:
        """Grant a certification and answer to whom.

        Raises UnknownCertification, UserNotFound, RankTooLow and AlreadyHeld.
        """
        member = await self._member(code, username)
        if member.rankid < self._group.minimum_rank(code).rankid:
            raise RankTooLow

        def decide(before: Record | None) -> Record:
            if before and before.held:
                raise AlreadyHeld(member.username, code)
            return Record(
                user=member.id,
                code=code,
                held=True,
                version=before.version + 1 if before else 1,
                granted_by=moderator,
                granted_at=datetime.now(UTC),
            )

        await self._change(CertificationGranted, member, code, moderator, decide)
        return member

    async def revoke(self, code: str, username: str, moderator: str) -> Member:
        """Revoke a certification and answer from whom.

        Raises UnknownCertification, UserNotFound and NotHeld.
        """
        member = await self._member(code, username)

        def decide(before: Record | None) -> Record:
            if before is None or not before.held:
                raise NotHeld(member.username, code)
            revocation = {
                "held": False,
                "version": before.version + 1,
                "revoked_by": moderator,
                "revoked_at": datetime.now(UTC),
            }
            return before.model_copy(update=revocation)

        await self._change(CertificationRevoked, member, code, moderator, decide)
        return member

    async def all_of(self, user: int) -> list[Record]:
        """Every record of this user, revoked ones included."""
        return await self._repository.all_of(user)

    async def _change(
        self,
        fact: type[CertificationGranted] | type[CertificationRevoked],
        member: Member,
        code: str,
        moderator: str,
        decide: Callable[[Record | None], Record],
    ) -> None:
        async def work(session: Session) -> None:
            after = decide(await self._repository.find(session, member.id, code))
            await self._repository.put(session, after)
            event = fact(
                user=member.id,
                username=member.username,
                certification=code,
                version=after.version,
                moderator=moderator,
            )
            await self._outbox.add(session, [event])

        await transaction(self._database, work)
        self._outbox.wake()

    async def _member(self, code: str, username: str) -> Member:
        if code not in self._group.certifications:
            raise UnknownCertification(code, self._group.certifications)
        return Member.model_validate(await self._accounts.get("/internal/member", username=username))
