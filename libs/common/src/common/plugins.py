"""Plugins, found by entry point and named in `callboard.toml`.

An entry point is a callable that takes a PluginContext and answers the plugin; what the plugin must offer
is the Protocol in the `plugins.py` of the service that uses it. Built-in plugins are found the same way.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, SecretStr, ValidationError

from common.errors import ConfigurationError
from common.group import Group
from common.mongo import Database
from common.settings import read_secret

PLUGIN_POINTS: Mapping[str, str] = {
    "callboard.identity": "username to id and back, and Discord id to Roblox id (accounts)",
    "callboard.ranking": "read and set a member's group rank (accounts)",
    "callboard.documents": "where an application's text is kept, and its public URL (applications)",
    "callboard.points": "credited seconds to points (shifts)",
    "callboard.notify": "who is told what happened (notifications)",
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
            raise ConfigurationError(
                f"callboard.toml: {key}: {first['msg'].removeprefix('Value error, ')}."
            ) from error

    def secret(self, name: str) -> SecretStr:
        """The secret `CALLBOARD_<NAME>`, which stands in no configuration file. Raises ConfigurationError."""
        value = read_secret(name)
        if value is None:
            raise ConfigurationError(f'CALLBOARD_{name.upper()}: plugin "{self.name}" needs it, found none.')
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()) or " " in text:  # it goes into a header or a URL
            raise ConfigurationError(f"CALLBOARD_{name.upper()}: expected letters, digits and signs only.")
        return value


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


class Finding(NamedTuple):
    """One line of `callboard doctor`: a sentence, and how to mend what is wrong.

    What is right, and says how to mend something, is a warning.
    """

    is_right: bool
    what: str
    mend: str = ""


@runtime_checkable
class Examinable(Protocol):
    """A plugin that can tell whether what it needs outside is in order; it changes nothing."""

    def examine(self) -> AsyncIterator[Finding]:
        """What it finds, line by line; the plugin was entered before."""
