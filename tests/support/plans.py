"""The plans of the queries that a service really sends: listened to on its connection, then explained."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from common import mongo
from common.mongo import Database, Document

_EXPLAINED = {
    "find": ("filter", "projection", "sort", "skip", "limit", "hint"),
    "aggregate": ("pipeline",),
    "findAndModify": ("query", "sort", "update", "upsert", "new", "fields"),
    "update": ("updates",),
    "delete": ("deletes",),
}
_SLOW = {"COLLSCAN": "reads the whole collection", "SORT": "sorts in memory"}


class Sent(CommandListener):
    """What was sent by every client that was made since `listen`."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, Document]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in _EXPLAINED:
            self.commands.append((event.command_name, copy.deepcopy(dict(event.command))))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    @property
    def targets(self) -> set[tuple[str, str]]:
        """Which commands went to which collections."""
        return {(name, command[name]) for name, command in self.commands}

    def shapes(self) -> Iterator[Document]:
        """Each command that differs from the others in more than its values, without what only a session needs."""
        known = set()
        for name, command in self.commands:
            kept = {field: command[field] for field in _EXPLAINED[name] if field in command}
            many = name if name in ("update", "delete") else None
            for part in kept[f"{many}s"] if many else [kept]:
                shape = (name, command[name], _shape(part))
                if shape not in known:
                    known.add(shape)
                    more: Document = {"cursor": {}} if name == "aggregate" else {}
                    yield {name: command[name], **({f"{many}s": [part]} if many else part), **more}


def listen(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """From now on, listen to every client that `common.mongo.connect` makes."""
    sent = Sent()
    monkeypatch.setattr(mongo, "_Client", partial(mongo._Client, event_listeners=[sent]))
    return sent


async def slow_plans(database: Database, sent: Sent) -> list[str]:
    """What is wrong with the plan of each query that was sent; nothing when all use an index."""
    found = []
    for command in list(sent.shapes()):
        explained = await database.command({"explain": command, "verbosity": "queryPlanner"})
        found += [f"{_SLOW[stage]}: {command}" for stage in _stages(explained) if stage in _SLOW]
    return found


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _shape(part)) for name, part in value.items())
    if isinstance(value, list):
        return tuple(sorted({repr(_shape(part)) for part in value}))
    return type(value).__name__


def _stages(explained: Any) -> Iterator[str]:
    """The stages of the plans that were chosen."""
    if isinstance(explained, list):
        for part in explained:
            yield from _stages(part)
    elif isinstance(explained, dict):
        if "stage" in explained:
            yield explained["stage"]
        for name, part in explained.items():
            if name not in ("rejectedPlans", "command"):
                yield from _stages(part)
