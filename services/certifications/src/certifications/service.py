"""Granting and revoking: each change and its event in one transaction."""

from collections.abc import Callable
from datetime import UTC, datetime

from certifications.errors import AlreadyHeld, NotHeld, RankTooLow, UnknownCertification
from certifications.models import ChangeQuery, Done, Member, Record
from certifications.repository import Repository
from certifications.settings import CertificationsSettings
from common.actors import Actor
from common.events import CertificationGranted, CertificationRevoked
from common.group import Group
from common.idempotency import Attempt, IdempotencyRecords
from common.mongo import Database, Session, transaction
from common.outbox import Outbox
from common.outgoing.peer import Peer


class Certifications:
    """The use cases of certifications."""

    def __init__(
        self,
        settings: CertificationsSettings,
        group: Group,
        database: Database,
        outbox: Outbox,
        accounts: Peer,
    ) -> None:
        self._group = group
        self._database = database
        self._repository = Repository(database)
        self._attempts = IdempotencyRecords(database, settings.storage)
        self._outbox = outbox
        self._accounts = accounts
        self._fresh_seconds = settings.certifications.fresh_seconds

    async def grant(self, query: ChangeQuery, attempt: Attempt | None = None) -> Done:
        """Grant a certification, or answer as an earlier attempt was.

        Raises UnknownCertification, UserNotFound, RankTooLow, AlreadyHeld and KeyReused.
        """
        if done := await self._done_before(attempt):
            return done
        code, (member, actor) = query.certification, await self._resolve(query)
        minimum = self._group.minimum_rank(code).rankid
        # What is stored may be minutes old, so it is enough to grant, and not to refuse.
        if member.rankid < minimum and await self._fresh_rankid(member.id) < minimum:
            raise RankTooLow

        def decide(before: Record | None) -> Record:
            if before and before.held:
                raise AlreadyHeld(member.username, code)
            return Record(
                user=member.id,
                code=code,
                held=True,
                version=before.version + 1 if before else 1,
                granted_by=actor.by,
                granted_via=actor.via,
                granted_at=datetime.now(UTC),
            )

        return await self._change(CertificationGranted, member, code, actor, decide, attempt)

    async def revoke(self, query: ChangeQuery, attempt: Attempt | None = None) -> Done:
        """Revoke a certification, or answer as an earlier attempt was.

        Raises UnknownCertification, UserNotFound, NotHeld and KeyReused.
        """
        if done := await self._done_before(attempt):
            return done
        code, (member, actor) = query.certification, await self._resolve(query)

        def decide(before: Record | None) -> Record:
            if before is None or not before.held:
                raise NotHeld(member.username, code)
            revocation = {
                "held": False,
                "version": before.version + 1,
                "revoked_by": actor.by,
                "revoked_via": actor.via,
                "revoked_at": datetime.now(UTC),
            }
            return before.model_copy(update=revocation)

        return await self._change(CertificationRevoked, member, code, actor, decide, attempt)

    async def all_of(self, user: int) -> list[Record]:
        """Every record of this user, revoked ones included."""
        return await self._repository.all_of(user)

    async def _change(
        self,
        fact: type[CertificationGranted] | type[CertificationRevoked],
        member: Member,
        code: str,
        actor: Actor,
        decide: Callable[[Record | None], Record],
        attempt: Attempt | None,
    ) -> Done:
        done = Done(username=member.username, code=code)

        async def work(session: Session) -> Done:
            if before := await self._done_before(attempt, session):
                return before
            after = decide(await self._repository.find(session, member.id, code))
            await self._repository.put(session, after)
            event = fact(
                user=member.id,
                username=member.username,
                certification=code,
                version=after.version,
                moderator=actor.by,
                actor=actor,
            )
            await self._outbox.add(session, [event])
            await self._attempts.add(session, attempt, done.model_dump(exclude={"is_replay"}))
            return done

        result = await transaction(self._database, work)
        self._outbox.wake()
        return result

    async def _done_before(self, attempt: Attempt | None, session: Session | None = None) -> Done | None:
        """What an earlier attempt did. Raises KeyReused."""
        made = await self._attempts.find(attempt, session)
        return Done(**made, is_replay=True) if made else None

    async def _resolve(self, query: ChangeQuery) -> tuple[Member, Actor]:
        """Whom and who `query` names. Raises UnknownCertification and UserNotFound."""
        if query.certification not in self._group.certifications:
            raise UnknownCertification(query.certification, self._group.certifications)
        asked = query.model_dump(exclude={"certification"}, exclude_none=True)
        member = Member.model_validate(await self._accounts.get("/internal/member", **asked))
        # Without an actor answers an accounts of an older version, as during a rollout.
        return member, member.actor or Actor(by=query.moderator)

    async def _fresh_rankid(self, user: int) -> int:
        """The rank as it is now. Raises Unavailable."""
        found = await self._accounts.get(
            "/internal/member", seconds=self._fresh_seconds, id=user, fresh="true"
        )
        return Member.model_validate(found).rankid
