"""Events outlive the code that wrote them, so what was published once stays readable."""

import json
from pathlib import Path
from typing import Any

import pytest

from callboard.services import declared
from common import events
from common.events import EVENTS, Event
from tests.architecture.repository import SERVICES

PINNED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("events.json").read_text("utf-8"))


def schema(event: type[Event]) -> dict[str, Any]:
    """What is pinned of an event: its fields and which of them must be there; no prose."""

    def without_prose(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: without_prose(part)
                for name, part in value.items()
                if not (name in ("title", "description") and isinstance(part, str))
            }
        if isinstance(value, list):
            return [without_prose(part) for part in value]
        return value

    whole = without_prose(event.model_json_schema())
    parts = {"$defs": whole["$defs"]} if "$defs" in whole else {}
    return {"properties": whole["properties"], "required": sorted(whole.get("required", []))} | parts


def test_every_event_class_is_listed_once_with_a_subject_of_its_own() -> None:
    defined = [
        value
        for value in vars(events).values()
        if isinstance(value, type) and issubclass(value, Event) and value is not Event
    ]
    assert sorted(EVENTS, key=str) == sorted(defined, key=str)
    assert len({event.SUBJECT for event in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_a_subject_names_the_service_the_fact_and_the_version(event: type[Event]) -> None:
    prefix, service, fact, version = event.SUBJECT.split(".")
    assert prefix == "callboard"
    assert service in SERVICES
    assert fact.replace("_", "").isalpha() and fact.islower()
    assert event.__name__.lower() == fact.replace("_", "") or version != "v1"
    assert version[0] == "v" and int(version[1:]) >= 1


@pytest.mark.parametrize("subject", PINNED)
def test_no_event_ever_loses_or_changes_a_field(subject: str) -> None:
    current = {event.SUBJECT: event for event in EVENTS}.get(subject)
    assert current is not None, f"{subject} is gone: consumers and streams still hold it, so keep the class"
    pinned, now = PINNED[subject], schema(current)
    for name, field in pinned["properties"].items():
        assert now["properties"].get(name) == field, (
            f"{subject}: {name} is no longer what it was. Fields are only ever added, optional. "
            "Anything else is a new class with .v2 in its subject, beside the old one."
        )
    assert now["required"] == pinned["required"], (
        f"{subject}: which fields are required has changed. Give a new field a default: events that were "
        "published before do not have it."
    )


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_field_of_every_event_is_pinned(event: type[Event]) -> None:
    now = schema(event)
    assert PINNED.get(event.SUBJECT) == now, (
        "A new event, or a new optional field? Then put this into tests/architecture/events.json and a line "
        f'into docs/events.md:\n"{event.SUBJECT}": {json.dumps(now, indent=2)}'
    )


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_an_event_cannot_be_changed_and_lets_later_fields_pass(event: type[Event]) -> None:
    assert event.model_config["frozen"] is True
    assert event.model_config["extra"] == "ignore"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_handles_only_events_that_exist(service: str) -> None:
    assert set(declared(service).handles) <= set(EVENTS)


def test_every_event_is_published_by_one_service() -> None:
    published = [event for service in SERVICES for event in declared(service).publishes]
    assert sorted(published, key=str) == sorted(EVENTS, key=str)
