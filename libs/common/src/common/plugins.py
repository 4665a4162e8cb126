"""Plugins, found by entry point and named in `callboard.toml`.

An entry point is a callable that takes a PluginContext and answers the plugin; what the plugin must offer
is the Protocol of its PluginPoint, beside which the service declares it. Built-in plugins are found the same way.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, SecretStr, ValidationError
from typing_extensions import get_protocol_members

from common.errors import ConfigurationError
from common.group import Group
from common.limits import L
from common.mongo import Database
from common.settings import ProcessSettings, read_secret


@dataclass(frozen=True)
class PluginPoint:
    """Something that differs from group to group, in the entry-point group `callboard.<name>`.

    `protocol` is what a plugin must offer; `callboard.toml` says under `plugins.<name>` which are in use.
    """

    name: str
    decides: str
    protocol: type[Any]

    @property
    def entries(self) -> str:
        """The entry-point group."""
        return f"callboard.{self.name}"

    def names(self, group: Group) -> Sequence[str]:
        """The plugins that this group uses, in order."""
        named: str | Sequence[str] = getattr(group.plugins, self.name)
        return (named,) if isinstance(named, str) else named


Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True)
class PluginContext:
    """What a plugin may build on: the group's configuration, its own options, the service's database and limits."""

    group: Group
    name: str
    database: Database
    settings: ProcessSettings | None = None

    def limits(self, room: type[L]) -> L:
        """The limits of a room: those of the settings; of one that they do not have, the defaults with patience."""
        for _, value in self.settings or ():
            if isinstance(value, room):
                return value
        return room.with_patience(self.settings.patience if self.settings else 1.0)

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


def load(
    point: PluginPoint, name: str, group: Group, database: Database, settings: ProcessSettings | None = None
) -> Any:
    """The plugin of this name. Raises ConfigurationError where there is none, or it is not what the point asks for."""
    found = entry_points(group=point.entries, name=name)
    if not found:
        known = ", ".join(sorted(entry.name for entry in entry_points(group=point.entries)))
        raise ConfigurationError(f'No plugin "{name}" is installed for {point.entries}; there are: {known}.')
    entry = next(iter(found))
    try:
        factory: Callable[[PluginContext], Any] = entry.load()
        plugin = factory(PluginContext(group, name, database, settings))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f'Plugin "{name}" for {point.entries} does not load: {error}.') from error
    asked = get_protocol_members(point.protocol)
    if missing := sorted(member for member in asked if not hasattr(plugin, member)):
        raise ConfigurationError(
            f'Plugin "{name}" for {point.entries} lacks {", ".join(missing)}: it is no {point.protocol.__qualname__}.'
        )
    return plugin


async def enter(
    stack: AsyncExitStack, point: PluginPoint, group: Group, database: Database, settings: ProcessSettings
) -> dict[str, Any]:
    """The plugins that this group uses, by name, in order; those that hold something open until the stack is closed.

    Raises ConfigurationError.
    """
    plugins: dict[str, Any] = {}
    for name in point.names(group):
        plugin = plugins[name] = load(point, name, group, database, settings)
        if isinstance(plugin, AbstractAsyncContextManager):
            await stack.enter_async_context(plugin)
    return plugins


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
