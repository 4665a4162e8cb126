"""Logging shifts: what is credited, what is a repeat, and one transaction for many people's shifts."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from common import metrics
from common.coalesce import Coalescer
from common.errors import InvalidQuery, KeyReused, Unavailable
from common.events import CertificationGranted, CertificationRevoked
from common.group import Group
from common.messaging.handling import Handled, Outcome
from common.mongo import Database, Session, is_own_error, transaction
from common.outbox import Outbox
from common.outgoing.peer import Peer
from shifts.errors import ImpossibleDuration, InvalidCertification, UnknownPlace
from shifts.models import Claim, HeldCertification, LogQuery, Shift, Timesheet
from shifts.plugins import PointsPolicy
from shifts.repository import Repository
from shifts.rules import check, is_certified, pay, repeats, uncovered_seconds
from shifts.settings import ShiftsSettings

LONGEST_SECONDS = 24 * 3600
OVERLAP_FLAG_SECONDS = 60


class Shifts:
    """The use cases of shifts."""

    def __init__(
        self,
        settings: ShiftsSettings,
        group: Group,
        database: Database,
        outbox: Outbox,
        policy: PointsPolicy,
        certifications: Peer,
    ) -> None:
        self._group = group
        self._database = database
        self._outbox = outbox
        self._policy = policy
        self._certifications = certifications
        self._limits = settings.shifts
        self._locked_event_seconds = settings.consumer.locked_seconds
        self._repository = Repository(database)
        self._held = Coalescer[int, dict[str, HeldCertification]](self._repository.certifications_of)
        self._records = Coalescer[Claim, bool](
            self._record,
            key=lambda claim: claim.user,
            own_error=is_own_error,
            gather_seconds=settings.shifts.gather_seconds,
        )

    async def log(self, query: LogQuery, key: str, idempotency_key: str | None, arrived_at: int) -> bool:
        """Record a shift, durably before this returns; answers whether it was recorded before.

        `key` is the name of the caller's key, `arrived_at` when the request came (Unix s). Raises
        UnknownPlace, ImpossibleDuration, KeyReused, InvalidCertification, InvalidQuery for an `ended_at` of long
        ago, and Unavailable.
        """
        place = self._group.places.get(query.place)
        if place is None:
            raise UnknownPlace
        if not 1 <= query.duration <= LONGEST_SECONDS:
            raise ImpossibleDuration
        codes = set() if query.training else set(place.certifications)
        try:
            async with asyncio.timeout(self._limits.log_seconds):
                claim = Claim(
                    user=query.id,
                    place=query.place,
                    server=query.server,
                    training=query.training,
                    duration=query.duration,
                    given_ended_at=query.ended_at,
                    sent_at=query.now,
                    arrived_at=arrived_at,
                    key=key,
                    idempotency_key=idempotency_key,
                    is_certified=not codes,
                )
                if codes:
                    known = await self._held.submit(query.id)
                    claim = replace(claim, is_certified=is_certified(claim, codes, known))
                try:
                    return await self._records.submit(claim)
                except InvalidCertification:
                    # This service's copy may be behind: ask the owner once before refusing.
                    if not is_certified(claim, codes, await self._held_by_owner(query.id)):
                        raise
                    return await self._records.submit(replace(claim, is_certified=True))
        except TimeoutError as error:
            raise Unavailable("database") from error

    async def record_certifications(
        self, changes: Sequence[CertificationGranted | CertificationRevoked]
    ) -> list[Outcome]:
        """Keep the newest of each certification."""
        newer = await self._keep_newest(
            [
                (
                    change.user,
                    change.certification,
                    HeldCertification(
                        held=isinstance(change, CertificationGranted),
                        version=change.version,
                        changed_at=change.occurred_at,
                    ),
                )
                for change in changes
            ]
        )
        return [Handled.DONE if is_newer else Handled.UNCHANGED for is_newer in newer]

    async def _held_by_owner(self, user: int) -> dict[str, HeldCertification]:
        answer = await self._certifications.get(
            "/internal/certifications", seconds=self._limits.certifications_seconds, user=user
        )
        known = {
            code: HeldCertification.model_validate(value) for code, value in answer["certifications"].items()
        }
        if known:
            await self._keep_newest([(user, code, value) for code, value in known.items()])
        return known

    async def _keep_newest(self, changes: Sequence[tuple[int, str, HeldCertification]]) -> list[bool]:
        async def work(session: Session) -> list[bool]:
            return await self._repository.keep_newest(session, changes)

        return await transaction(self._database, work, locked_seconds=self._locked_event_seconds)

    async def _record(self, claims: Sequence[Claim]) -> list[bool | Exception]:
        async def work(session: Session) -> list[bool | Exception]:
            recorded = await self._repository.recorded(session, claims)
            results: list[bool | Exception] = []
            new: list[Shift] = []
            changed: list[Timesheet] = []
            for claim in claims:
                try:
                    used = recorded.used.get((claim.key, claim.idempotency_key))
                    is_repeat = repeats(claim, used, recorded.near[claim.user])
                    if not is_repeat:
                        check(claim)
                        shift, sheet = self._credit(
                            claim, recorded.near[claim.user], recorded.sheets[claim.user]
                        )
                        new.append(shift)
                        changed.append(sheet)
                    results.append(is_repeat)
                except (KeyReused, InvalidCertification, InvalidQuery) as error:
                    results.append(error)
            if new:
                await self._repository.add(session, new, changed)
                traces = {claim.id: claim.traceparent for claim in claims}
                await self._outbox.add(session, [shift.logged() for shift in new], traces)
            return results

        results = await transaction(self._database, work, locked_seconds=self._limits.locked_seconds)
        self._outbox.wake()
        metrics.SHIFTS_REPEATED.inc(sum(result is True for result in results))
        return results

    def _credit(self, claim: Claim, earlier: Sequence[Shift], sheet: Timesheet) -> tuple[Shift, Timesheet]:
        uncovered = uncovered_seconds(
            claim.started_at, claim.ended_at, [(shift.started_at, shift.ended_at) for shift in earlier]
        )
        longest = self._group.points.longest_credited_hours * 3600
        credited = min(uncovered, longest)
        exact = self._policy.points(credited, training=claim.training)
        points, carry = pay(exact, sheet.carry)
        flags = []
        if claim.duration - uncovered > OVERLAP_FLAG_SECONDS:
            flags.append("overlap")
        if claim.duration > longest:
            flags.append("long")
        if claim.has_wrong_clock:
            flags.append("clock")
        shift = Shift(
            id=claim.id,
            user=claim.user,
            place=claim.place,
            server=claim.server,
            training=claim.training,
            duration=claim.duration,
            given_ended_at=claim.given_ended_at,
            started_at=claim.started_at,
            ended_at=claim.ended_at,
            credited_seconds=credited,
            points=points,
            flags=tuple(flags),
            key=claim.key,
            idempotency_key=claim.idempotency_key,
            logged_at=datetime.now(UTC),
            number=sheet.shifts + 1,
            exact_points=str(exact),
            carried=str(sheet.carry),
        )
        return shift, Timesheet(claim.user, carry, sheet.shifts + 1)
