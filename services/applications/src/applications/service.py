"""Taking applications, and approving people exactly once."""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import urljoin

from applications.errors import AlreadyRanked, ApplicationNotFound, NotRanked
from applications.models import Answers, Member, Record
from applications.plugins import Documents, Published
from applications.repository import Repository, TakenMeanwhile
from applications.settings import ApplicationsSettings
from common.actors import Actor
from common.errors import InvalidQuery, ServiceError, Unavailable
from common.events import ApplicationApproved, ApplicationSubmitted, new_id
from common.group import Group
from common.idempotency import Attempt, IdempotencyRecords
from common.mongo import Database, Session, is_outage, transaction
from common.outbox import Outbox
from common.outgoing.peer import Peer

logger = logging.getLogger(__name__)


class Applications:
    """The use cases of applications."""

    def __init__(
        self,
        settings: ApplicationsSettings,
        group: Group,
        database: Database,
        outbox: Outbox,
        accounts: Peer,
        documents: Documents,
    ) -> None:
        self._limits = settings.applications
        self._group = group
        self._database = database
        self._repository = Repository(database, settings.applications)
        self._outbox = outbox
        self._accounts = accounts
        self._documents = documents
        self._attempts = IdempotencyRecords(database, settings.storage)
        self._public_url = str(settings.public_url).rstrip("/") + "/"

    async def submit(self, user: int, answers: Answers, attempt: Attempt | None) -> tuple[str, bool]:
        """Take an application and answer the URL where its text can be read, and whether an earlier attempt did it.

        Raises InvalidQuery, KeyReused and StillRunning.
        """
        longest = self._group.applications.longest_answer
        for question, text in answers:
            if len(text) > longest:
                raise InvalidQuery(f"{question} must be at most {longest} characters")
        async with self._attempts.claim(attempt) as claim:
            if claim.made:
                return await self._repository.url(claim.made["application"]), True
            now = datetime.now(UTC)
            published = await self._documents.publish(self._page(user, answers, now))
            path, copy = published if isinstance(published, Published) else (published, None)
            url = urljoin(self._public_url, path)
            copy_url = copy and urljoin(self._public_url, copy)
            record = Record(
                id=new_id(), user=user, status="submitted", submitted_at=now, url=url, copy_url=copy_url
            )
            event = ApplicationSubmitted(application=record.id, user=user, url=url, copy_url=copy_url)

            async def work(session: Session) -> None:
                await self._repository.add(session, record)
                await self._outbox.add(session, [event])
                await claim.finish(session, {"application": record.id})

            await transaction(self._database, work)
        self._outbox.wake()
        return url, False

    async def text(self, token: str) -> str:
        """The text of an application. Raises ApplicationNotFound."""
        text = await self._repository.text(token)
        if text is None:
            raise ApplicationNotFound
        return text

    async def approve(self, user: int, moderator: str, attempt: Attempt | None) -> bool:
        """Make a user a trainee, once; answers whether an earlier attempt did it, or had begun it.

        An approval of this user that was begun before comes first: one that is under way is waited for, and
        one that was left behind is finished, which is then the answer. Raises AlreadyRanked, UserNotFound,
        NotRanked and KeyReused.
        """
        try:
            async with asyncio.timeout(self._limits.approval_seconds):
                return await self._approve(user, moderator, attempt)
        except TimeoutError:
            raise NotRanked from None

    async def finish_abandoned(self) -> None:
        """Finish what a crash or an outage left `approving`, now and again and again, until cancelled."""
        while True:
            try:
                for user in await self._repository.abandoned():
                    if record := await self._repository.take_over(user):
                        with suppress(NotRanked):  # which `_finish` logged
                            await self._finish(record)
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning("approvals wait for MongoDB: %s", type(error).__name__)
            await asyncio.sleep(self._limits.finish_every_seconds)

    async def _approve(self, user: int, moderator: str, attempt: Attempt | None) -> bool:
        while True:
            earlier = await self._repository.attempted(attempt) if attempt else None
            if earlier and earlier.status == "approved":
                return True
            with suppress(TakenMeanwhile):
                if earlier:
                    if record := await self._repository.take_over(user):
                        await self._finish(record)
                        return True
                elif await self._approve_now(user, moderator, attempt):
                    return False
            await asyncio.sleep(self._limits.approval_poll_seconds)

    async def _approve_now(self, user: int, moderator: str, attempt: Attempt | None) -> bool:
        """Finish the user's approval, or else begin and finish one; False while somebody else is at it."""
        before = await self._repository.approvals_of(user)
        member = None
        if any(record.status == "approving" for record in before):
            record = await self._repository.take_over(user, attempt)
        else:
            try:
                member = await self._member(user, moderator)
            except Unavailable as error:
                raise NotRanked from error
            if self._group.is_trainee_or_cast(member.rankid):
                if attempt and await self._repository.attempted(attempt):  # which made them one just now
                    return False
                raise AlreadyRanked
            # Without an actor answers an accounts of an older version, as during a rollout.
            record = await self._begin(user, member.actor or Actor(by=moderator), attempt, before)
        if record is None:
            return False
        await self._finish(record, member)
        return True

    async def _begin(
        self, user: int, actor: Actor, attempt: Attempt | None, before: list[Record]
    ) -> Record | None:
        """Record `approving`; None when the user has other approvals than `before`."""

        async def work(session: Session) -> Record | None:
            if await self._repository.approvals_of(user, session) != before:
                return None
            return await self._repository.begin_approval(session, user, actor, attempt)

        return await transaction(self._database, work)

    async def _finish(self, record: Record, member: Member | None = None) -> None:
        """Set the rank and record `approved`; safe to repeat. Raises NotRanked.

        A refusal for good reopens the application; after any other failure the next call goes on here. `member` is
        the user as just judged. Nobody who holds a higher rank by now is given this one.
        """
        rank = self._group.trainee_rank
        try:
            member = member or await self._member(record.user)
            if member.rankid <= rank.rankid:  # also when it has the rank already: it may not be recorded yet
                wish = {"user": record.user, "rankid": rank.rankid}
                await self._accounts.post(
                    "/internal/rank", wish, seconds=self._limits.rank_seconds, repeatable=True
                )
        except ServiceError as error:
            logger.warning("application %s: couldn't rank user: %s", record.id, error)
            # A changed internal token (401) and a rate limit (429) pass; other refusals are for good.
            if 400 <= error.status < 500 and error.status not in (401, 429):
                await self._repository.reopen(record, str(error))
                raise NotRanked(error.discord) from error
            await self._repository.release(record)
            raise NotRanked from error
        event = ApplicationApproved(
            application=record.id,
            user=record.user,
            username=member.username,
            rank=rank.name,
            moderator=record.moderator,
            actor=record.actor,
        )

        async def work(session: Session) -> None:
            if await self._repository.approved(session, record):
                await self._outbox.add(session, [event])

        await transaction(self._database, work)
        self._outbox.wake()

    async def _member(self, user: int, moderator: str | None = None) -> Member:
        """The user, with the rank as it is now, and who the moderator is.

        A rank that was read a while ago could make a demotion of an approval.
        """
        asked = {"id": user, "fresh": "true"} | ({"moderator": moderator} if moderator else {})
        found = await self._accounts.get("/internal/member", seconds=self._limits.member_seconds, **asked)
        return Member.model_validate(found)

    def _page(self, user: int, answers: Answers, submitted_at: datetime) -> str:
        parts = [f"Application of user {user}, {submitted_at:%Y-%m-%d %H:%M} UTC"]
        wording = {str(question): text for question, text in self._group.applications.questions.items()}
        parts += [f"{wording.get(question, question)}\n{text}" for question, text in answers]
        return "\n\n".join(parts) + "\n"
