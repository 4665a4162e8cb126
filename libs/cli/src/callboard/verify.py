"""Is every shift counted exactly once? What the services keep is compared, one by one, and mended if asked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pymongo

from callboard.access import open_databases
from callboard.acts import record
from callboard.books import (
    Comparison,
    CopiesOfCertifications,
    Databases,
    LedgerOfShifts,
    Mending,
    Pair,
    Publishing,
    TotalsOfLedger,
)
from callboard.credit import CreditOfShifts
from common.dead_letters import DEAD_LETTERS
from common.outbox import OUTBOX
from common.settings import Settings

_PAUSE_SECONDS = 0.2
_ADVANCE_EVERY = 1_000
_AT_ONCE = 1_000
_LIMITED_AT_ONCE = 100
_TOLD = 10
_LONGEST_READ_SECONDS = 60.0

_COUNTED = ("shifts", "ledger_entries", "people", "points", "certifications")
_MENDED = {
    "shifts": ("shift published again", "shifts published again"),
    "totals": ("total corrected", "totals corrected"),
    "certifications": ("certification published again", "certifications published again"),
}

Advance = Callable[[str, int, int], None]
"""Told what is being compared, how many are done, and of how many (about)."""


@dataclass
class Report:
    """What was compared, and what is wrong: `differences` are sentences by kind, a thousand of each at most.
    `on_their_way` is how many of these NATS has, or may have, and will deliver. `nats_is_away` says that it was asked for
    that, and did not answer.

    After a repair, `found` is what was wrong before it, and `repairs` how much of it was mended, by kind;
    None without one.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    unsent_events: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    differences: dict[str, list[str]] = field(default_factory=dict)
    on_their_way: int = 0
    nats_is_away: bool = False
    found: dict[str, list[str]] = field(default_factory=dict)
    repairs: dict[str, int] | None = None

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not any(
            (*self.differences.values(), *self.unsent_events.values(), *self.dead_letters.values())
        )

    def to_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "ok": self.is_good,
            **self.counts,
            "unsent_events": self.unsent_events,
            "dead_letters": self.dead_letters,
            "differences": [text for kind in self.differences.values() for text in kind],
            "on_their_way": None if self.nats_is_away else self.on_their_way,
            "found": [text for kind in self.found.values() for text in kind],
            "repairs": self.repairs,
        }

    def mended(self) -> str:
        """How much of what was mended, for people; nothing if nothing was."""
        repairs = self.repairs or {}
        return ", ".join(_number(count, *_MENDED[what]) for what, count in repairs.items() if count)

    def sentences(self) -> list[str]:
        """The report for people: what is wrong, the first of it in detail, and the sum of it all."""
        told = [f"Found: {text}" for texts in self.found.values() for text in _first(texts)]
        if self.repairs is not None:
            told.append(f"Mended: {self.mended() or 'nothing'}.")
        told += [text for texts in self.differences.values() for text in _first(texts)]
        if self.on_their_way:
            are = "is on its way" if self.on_their_way == 1 else "are on their way"
            told.append(f"{self.on_their_way} of these {are}: NATS has what is missing, and delivers it.")
        if self.nats_is_away:
            told.append(
                "NATS does not answer, so that nobody knows what is on its way: nothing is published again before it does."
            )
        # What its owner has not sent yet may be what is missing: `_conclude` does not publish it again.
        later = "" if self.repairs is None else " Repair again once they are sent."
        for service, count in self.unsent_events.items():
            told += (
                [f"{service} has {_number(count, 'unsent event', 'unsent events')}.{later}"] if count else []
            )
        for service, count in self.dead_letters.items():
            told += [f"{service} has {_number(count, 'dead letter', 'dead letters')}."] if count else []
        sums = ", ".join(
            (
                _number(self.counts["shifts"], "shift", "shifts"),
                _number(self.counts["ledger_entries"], "ledger entry", "ledger entries"),
                f"{_number(self.counts['points'], 'point', 'points')} of "
                f"{_number(self.counts['people'], 'person', 'people')}",
                _number(self.counts["certifications"], "certification", "certifications"),
            )
        )
        return [*told, f"{sums}: {'all add up' if self.is_good else 'NOT in order'}."]


async def verify(
    settings: Settings, advance: Advance, *, repair: bool = False, patience_seconds: float = 10.0
) -> Report:
    """Compare shifts, ledger, totals and certifications, and wait a little for what is under way.

    Works through the data in order and in batches, so it may be large, and Callboard may be running. With
    `repair`, what can be mended is mended, and all is compared once more; doing so again changes nothing.
    """
    async with open_databases(settings) as databases:
        for database in databases.values():
            await database.command("ping")  # where MongoDB does not answer, this fails in two seconds
        if not repair:
            return await _Round(settings, databases, advance, patience_seconds).run()
        repairing = _Round(settings, databases, advance, patience_seconds, is_repairing=True)
        try:
            before = await repairing.run()
        finally:  # a repair that was told to stop has done a part of it
            if mended := repairing.report.mended():
                await record(databases["gateway"], "repair", f"Repaired: {mended}.")
        report = await _Round(settings, databases, advance, patience_seconds).run()
        report.found, report.repairs = before.differences, before.repairs
        return report


class _Round:
    """One comparison of everything; it waits `patience_seconds` at most, in all, for what is under way."""

    def __init__(
        self,
        settings: Settings,
        databases: Databases,
        advance: Advance,
        patience_seconds: float,
        *,
        is_repairing: bool = False,
    ) -> None:
        self._settings = settings
        self._databases = databases
        self._advance = advance
        self.report = Report(repairs={} if is_repairing else None)
        self._pauses = int(patience_seconds / _PAUSE_SECONDS)

    async def run(self) -> Report:
        """Compare everything, and mend what differs if this is a repair."""
        self.report.unsent_events = await self._unsent_events()
        # Beside the others, so that MongoDB reads for the one while this process compares for the other.
        credit = asyncio.create_task(self._compare(CreditOfShifts(self._databases)))
        try:
            for comparison in (LedgerOfShifts, TotalsOfLedger, CopiesOfCertifications):
                await self._compare(comparison(self._databases))
            await credit
        finally:
            credit.cancel()
            await asyncio.gather(credit, return_exceptions=True)
        self.report.dead_letters = await self._counts(DEAD_LETTERS.name, {})
        return self.report

    async def _unsent_events(self) -> dict[str, int]:
        """By service, how many of the events that wait now are not sent before patience ends."""
        waiting = {"sent": False, "created_at": {"$lte": datetime.now(UTC)}}
        while any((unsent := await self._counts(OUTBOX.name, waiting)).values()):
            if not await self._may_change():
                break
        return unsent

    async def _counts(self, collection: str, where: Mapping[str, Any]) -> dict[str, int]:
        with pymongo.timeout(_LONGEST_READ_SECONDS):
            return {
                name: await database[collection].count_documents(where)
                for name, database in self._databases.items()
            }

    async def _compare(self, comparison: Comparison) -> None:
        size = await comparison.size()
        done = 0
        noted: list[Any] = []
        async for pair in _each(comparison.pairs()):
            done += 1
            if done % _ADVANCE_EVERY == 0:
                self._advance(comparison.what, done, size)
            for what, number in comparison.count(pair).items():
                self.report.counts[what] += number
            if len(noted) < _AT_ONCE and comparison.differences(pair):
                noted.append(pair[0])
                if len(noted) == _AT_ONCE:
                    lasting = await self._lasting(comparison, noted)
                    if self.report.repairs is not None:
                        await self._conclude(comparison, lasting)
                        lasting = []
                    noted = [key for key, *_ in lasting]
        await self._conclude(comparison, await self._lasting(comparison, noted))
        self._advance(comparison.what, done, done)

    async def _lasting(self, comparison: Comparison, keys: Sequence[Any]) -> list[Pair]:
        """What still differs when patience ends; what was under way when it was compared may not."""
        lasting: list[Pair] = []
        while keys:
            lasting = [pair async for pair in _each(comparison.pairs(keys)) if comparison.differences(pair)]
            if not lasting or not await self._may_change():
                break
            keys = [key for key, *_ in lasting]
        return lasting

    async def _may_change(self) -> bool:
        """Wait a moment; false once there was enough waiting."""
        if self._pauses == 0:
            return False
        self._pauses -= 1
        await asyncio.sleep(_PAUSE_SECONDS)
        return True

    async def _conclude(self, comparison: Comparison, lasting: Sequence[Pair]) -> None:
        """Report what differs, and mend it if that was asked for."""
        if not lasting and self.report.repairs is None:
            return
        mendable = lasting
        if lasting and isinstance(comparison, Publishing):
            lasting, mendable = await self._without_what_is_on_its_way(comparison, lasting)
        told = self.report.differences.setdefault(comparison.what, [])
        told += [text for pair in lasting for text in comparison.differences(pair)][: _AT_ONCE - len(told)]
        if self.report.repairs is None or not isinstance(comparison, Mending):
            return
        # What its owner has not sent yet may be what is missing: it is not sent once more.
        publisher = comparison.publishes_from if isinstance(comparison, Publishing) else None
        if publisher is None or not self.report.unsent_events[publisher]:
            mended = self.report.repairs.get(comparison.what, 0) + await comparison.mend(mendable)
            self.report.repairs[comparison.what] = mended

    async def _without_what_is_on_its_way(
        self, comparison: Publishing, lasting: Sequence[Pair]
    ) -> tuple[Sequence[Pair], Sequence[Pair]]:
        """What still differs once NATS has told what it has, and of that what nobody will deliver."""
        # Only now: most of the time nothing is missing, and the client of NATS takes a while to load.
        from callboard.transit import ask

        transit = await ask(self._settings, ("accounts", "shifts"))
        keys = [key for key, *_ in lasting]
        lasting = [pair async for pair in _each(comparison.pairs(keys)) if comparison.differences(pair)]
        if transit is None:
            self.report.nats_is_away = True
            return lasting, []
        with pymongo.timeout(_LONGEST_READ_SECONDS):
            sent = await comparison.sent_at(lasting)
        coming = {
            key
            for key, by_consumer in sent.items()
            if any(transit.may_hold(consumer, at) for consumer, at in by_consumer.items())
        }
        self.report.on_their_way += len(coming)
        return lasting, [pair for pair in lasting if pair[0] not in coming]


async def _each(pairs: AsyncIterator[Pair]) -> AsyncIterator[Pair]:
    """The pairs; a few may take their time to be read, and all of them as long as there are any.

    A few at a time, as setting a time limit costs as much as handling a pair.
    """
    while True:
        few: list[Pair] = []
        with pymongo.timeout(_LONGEST_READ_SECONDS):
            while len(few) < _LIMITED_AT_ONCE and (pair := await anext(pairs, None)) is not None:
                few.append(pair)
        for pair in few:
            yield pair
        if len(few) < _LIMITED_AT_ONCE:
            return


def _first(texts: Sequence[str]) -> list[str]:
    more = len(texts) - _TOLD
    some = "at least " if len(texts) == _AT_ONCE else ""
    return [*texts[:_TOLD], f"... and {some}{more} more."] if more > 0 else [*texts]


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
