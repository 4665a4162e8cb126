"""Plugins, found by entry point and named in `callboard.toml`.

An entry point is a callable that takes a PluginContext and answers the plugin; what the plugin must offer
is the Protocol in the `plugins.py` of the service that uses it. Built-in plugins are found the same way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from common.errors import ConfigurationError
from common.group import Group
from common.mongo import Database

PLUGIN_POINTS: Mapping[str, str] = {
    "callboard.identity": "username to id and back, and Discord id to Roblox id (accounts)",
    "callboard.ranking": "read and set a member's group rank (accounts)",
    "callboard.documents": "where an application's text is kept, and its public URL (applications)",
    "callboard.points": "credited seconds to points (shifts)",
    "callboard.policies": "may this request pass (gateway)",
}

Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True)
class PluginContext:
    """What a plugin may build on: the group's configuration, its own options, the service's database."""

    group: Group
    name: str
    database: Database

    def options(self, model: type[Options]) -> Options:
        """The table `plugins.options.<name>` as `model`. Raises ConfigurationError that names the key."""
        try:
            return model.model_validate(self.group.plugins.options.get(self.name, {}))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(("plugins", "options", self.name, *map(str, first["loc"])))
            raise ConfigurationError(f"callboard.toml: {key}: {first['msg']}.") from error


def load(point: str, name: str, group: Group, database: Database) -> Any:
    """The plugin `name` of the entry-point group `point`. Raises ConfigurationError if it cannot be had."""
    found = entry_points(group=point, name=name)
    if not found:
        known = ", ".join(sorted(entry.name for entry in entry_points(group=point)))
        raise ConfigurationError(f'No plugin "{name}" is installed for {point}; there are: {known}.')
    entry = next(iter(found))
    try:
        factory: Callable[[PluginContext], Any] = entry.load()
        return factory(PluginContext(group, name, database))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f'Plugin "{name}" for {point} does not load: {error}.') from error
