"""What a handler answers for each event of a batch, and how a batch is handled though one of its events fails."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, TypeVar

from common.errors import Locked, Unavailable
from common.events import Event
from common.messaging.limits import ConsumerLimits
from common.mongo import is_outage, is_too_slow


class Handled(Enum):
    """What became of an event that was handled."""

    DONE = auto()
    UNCHANGED = auto()
    """It changed nothing: it was handled before, or is older than what is known."""


Outcome = Handled | Exception
"""What became of an event: it was handled, or failed with this error of its own."""

Handler = Callable[[Any, Sequence[Any]], Awaitable[Sequence[Outcome]]]
"""A use case that handles events of one class: a method of the service's use cases.

Answers an outcome for each event, in order. What it raises concerns all of them; smaller batches may then be tried, so
whatever it does must be safe to do again.
"""

E = TypeVar("E", bound=Event)
K = TypeVar("K", bound=Hashable)
Work = Callable[[Sequence[E]], Awaitable[Sequence[Outcome]]]


async def handle_each(events: Sequence[E], work: Work[E], limits: ConsumerLimits) -> list[Outcome]:
    """An outcome for each event, in order: `work` handles them together, and as few at a time as it takes.

    A transaction fails as a whole. Where MongoDB is too slow for all, halves are tried, down to one event. Where
    anything else fails, each person's events are tried alone, several people at once. An outage ends it: the events
    that are left answer with the outage.
    """
    outcomes: list[Outcome] = []
    size = len(events)
    was_too_slow = False
    while len(outcomes) < len(events):
        part = events[len(outcomes) : len(outcomes) + size]
        try:
            outcomes += await _outcomes(work, part)
            was_too_slow = False
        except Exception as error:
            if is_too_slow(error) and len(part) > 1:
                size = (len(part) + 1) // 2
            elif is_too_slow(error) and not was_too_slow:
                # Its own fault, unless the next event is alone too slow as well.
                was_too_slow = True
                outcomes.append(_slow(error))
            elif is_outage(error):
                outcomes += [error] * (len(events) - len(outcomes))
            elif len(part) == 1:
                outcomes.append(error)
            else:
                outcomes += await _handle_alone(part, work, limits.alone_at_once)
    return outcomes


def are_newer(known: Mapping[K, int], versions: Iterable[tuple[K, int]]) -> list[bool]:
    """Whether each version (of what, number) is newer than the known one and all before it.

    For facts that set something: the newest version counts, in whatever order they come.
    """
    newest = dict(known)
    answers = []
    for what, version in versions:
        is_newer = what not in newest or newest[what] < version
        if is_newer:
            newest[what] = version
        answers.append(is_newer)
    return answers


async def _handle_alone(events: Sequence[E], work: Work[E], at_once: int) -> list[Outcome]:
    """Outcomes of events that failed together: each person's are tried apart from those of others.

    Those of one person together, as all of them wait for the same locked document.
    """
    by_person: dict[Hashable, list[int]] = {}
    for number, event in enumerate(events):
        by_person.setdefault(getattr(event, "user", event.id), []).append(number)
    outcomes: dict[int, Outcome] = {}
    turns = asyncio.Semaphore(at_once)
    outage: Exception | None = None

    async def handle(numbers: Sequence[int]) -> None:
        nonlocal outage
        found: list[Outcome] = []
        async with turns:
            if outage is None:
                found = await _handle_person([events[number] for number in numbers], work)
                outage = next((one for one in found if isinstance(one, Exception) and is_outage(one)), outage)
            else:
                found += [outage] * len(numbers)
        outcomes.update(zip(numbers, found, strict=True))

    await asyncio.gather(*map(handle, by_person.values()))
    return [outcomes[number] for number in range(len(events))]


async def _handle_person(events: Sequence[E], work: Work[E]) -> list[Outcome]:
    """Outcomes of one person's events, together or else one after another, until an outage."""
    try:
        return await _outcomes(work, events)
    except Exception as error:
        may_be_one = not isinstance(error, Locked) and (is_too_slow(error) or not is_outage(error))
        if len(events) == 1 or not may_be_one:
            return [error] * len(events)
    outcomes: list[Outcome] = []
    for number, event in enumerate(events):
        (outcome,) = await _handle_person([event], work)
        if isinstance(outcome, Exception) and is_outage(outcome):
            return outcomes + [outcome] * (len(events) - number)
        outcomes.append(outcome)
    return outcomes


async def _outcomes(work: Work[E], events: Sequence[E]) -> list[Outcome]:
    outcomes = list(await work(events))
    if len(outcomes) != len(events):
        raise RuntimeError(f"a handler answered {len(outcomes)} outcomes for {len(events)} events")
    return outcomes


def _slow(cause: Exception) -> Unavailable:
    error = Unavailable("database")
    error.__cause__ = cause
    return error
