"""Which plugin points there are, which plugins are installed, and which of them `callboard.toml` names."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from callboard.services import SERVICES, declared
from common.group import Group
from common.plugins import PluginPoint
from gateway.policies import POLICIES


@dataclass(frozen=True)
class Plugin:
    """A plugin, or the name of one that is missing (`package` is None)."""

    point: PluginPoint
    name: str
    package: str | None
    is_active: bool


@cache
def plugin_points() -> dict[PluginPoint, str]:
    """Every plugin point, and which service it belongs to, or the gateway."""
    points = {point: name for name in SERVICES for point in declared(name).plugin_points}
    return points | {POLICIES: "gateway"}


def plugins(group: Group) -> list[Plugin]:
    """All that are installed or named, by plugin point."""
    found: list[Plugin] = []
    for point in plugin_points():
        active = point.names(group)
        installed = {
            entry.name: entry.dist.name if entry.dist else None for entry in entry_points(group=point.entries)
        }
        found += [
            Plugin(point, name, installed.get(name), name in active) for name in sorted({*installed, *active})
        ]
    return found
