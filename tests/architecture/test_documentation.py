"""What can be set, plugged in or consumed is written down, and what is written down is there."""

import json
import re
import types
from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib.metadata import entry_points
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import gateway.settings
from callboard.plugins import plugin_points
from common.events import EVENTS, Event
from common.group import Group, load_group
from common.limits import Limits
from common.settings import ProcessSettings, Settings
from tests.architecture.repository import ROOT, SERVICES, module

PACKAGES = (*SERVICES, "gateway")
POINTS = [point.entries for point in plugin_points()]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def shown(default: Any) -> str:
    """A default as the tables show it."""
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, bool | int):
        return f"`{json.dumps(default)}`"
    if default is None or default == "" or default == () or default == {}:
        return "none"
    if isinstance(default, timedelta):
        seconds = int(default.total_seconds())
        size, unit = next(
            pair for pair in ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")) if not seconds % pair[0]
        )
        return f"`{seconds // size}{unit}`"
    if isinstance(default, tuple | list):
        return f"`{json.dumps(list(default))}`"
    if isinstance(default, BaseModel):
        return "the table's defaults"
    return f"`{default}`"


def settings_of(package: str) -> type[ProcessSettings]:
    """What a service reads; one without settings of its own reads those of the chassis."""
    own = module(package, "settings") if package in SERVICES else gateway.settings
    found: type[ProcessSettings] = getattr(own, f"{package.capitalize()}Settings", Settings)
    return found


def rows_of(model: type[ProcessSettings]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Limits):
            continue  # which nobody sets one by one; `patience` is for them all
        default = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg] # none takes the data
        yield f"| `CALLBOARD_{name.upper()}` | {shown(default)} | {field.description} |"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_setting_is_documented_with_its_default(package: str) -> None:
    text = page("settings.md")
    for row in rows_of(settings_of(package)):
        assert row in text, f"docs/settings.md: expected this row:\n{row}"


def test_no_setting_is_documented_that_does_not_exist() -> None:
    known = {row for package in PACKAGES for row in rows_of(settings_of(package))}
    assert [
        row
        for row in page("settings.md").splitlines()
        if row.startswith("| `CALLBOARD_") and row not in known
    ] == [row for row in page("settings.md").splitlines() if row.startswith("| `CALLBOARD_SECRETS_DIR`")]


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that `callboard.toml` may have below `model`, dotted, with its default."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        below, step = _table_in(field.annotation)
        if below is None:
            yield key, shown(field.default_factory() if field.default_factory else field.default)  # type: ignore[call-arg] # none takes the data
        else:
            yield from keys_of(below, f"{key}{step}.")


def _table_in(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The table that a key holds, if any, and how its entries are written: `.<...>` or `[]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _table_in(arguments[0])
    if origin in (Union, types.UnionType):
        return _table_in(next(part for part in arguments if part is not type(None)))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _table_in(arguments[1])[0], ".*"
    if origin in (tuple, list):
        return _table_in(arguments[0])[0], "[]"
    return None, ""


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    rows = [f"| `{key}` | {default} |" for key, default in keys_of(Group)]
    missing = [row for row in rows if row not in page("configuration.md")]
    assert not missing, "docs/configuration.md: expected rows that begin with:\n" + "\n".join(missing)


def test_no_key_is_documented_that_does_not_exist() -> None:
    documented = re.findall(r"^\| `([a-z_.*\[\]]+)` \|", page("configuration.md"), re.MULTILINE)
    assert set(documented) == {key for key, _ in keys_of(Group)}
    assert len(documented) == len(set(documented))


def test_the_shipped_configuration_is_valid_and_explains_every_table() -> None:
    path = ROOT / "callboard.toml"
    load_group(path)
    lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("[") and "known." not in line:
            around = lines[max(0, number - 1) : number + 2]
            assert any(near.startswith("#") for near in around), f"callboard.toml:{number + 1}: {line}"


@pytest.mark.parametrize("point", POINTS)
def test_every_plugin_point_and_built_in_plugin_is_documented(point: str) -> None:
    text = page("plugins.md")
    assert f"## `{point}`" in text
    section = text.split(f"## `{point}`", 1)[1].split("\n## ", 1)[0]
    built_in = sorted(entry.name for entry in entry_points(group=point))
    assert built_in, f"{point} has no plugin at all"
    for name in built_in:
        assert f"`{name}`" in section, f"docs/plugins.md: {point}: {name} is not described"


def test_every_installed_plugin_point_is_one_that_callboard_loads() -> None:
    installed = {group for group in entry_points().groups if group.startswith("callboard.")}
    assert installed == {*POINTS, "callboard.services"}


@pytest.mark.parametrize("point", POINTS)
def test_every_built_in_plugin_can_be_imported(point: str) -> None:
    for entry in entry_points(group=point):
        assert callable(entry.load()), f"{point}: {entry.name}"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_event_is_documented_with_each_of_its_fields(event: type[Event]) -> None:
    text = page("events.md")
    heading = f"### `{event.SUBJECT}`"
    assert heading in text
    section = text.split(heading, 1)[1].split("\n### ", 1)[0]
    for name in set(event.model_fields) - set(Event.model_fields):
        assert f"`{name}`" in section, f"docs/events.md: {event.SUBJECT}: {name} is not described"


def test_every_make_target_that_the_readme_names_exists() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README yet")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)|^\s*make ([a-z-]+)", readme.read_text("utf-8"), re.MULTILINE))
    assert {one or other for one, other in named} <= targets


def test_every_relative_link_of_the_readme_and_the_docs_leads_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in [*ROOT.glob("README.md"), *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
        if not (path.parent / link).exists()
    ]
    assert not broken
