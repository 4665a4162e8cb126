"""Which plugins are installed, and which of them `callboard.toml` names."""

from dataclasses import dataclass
from importlib.metadata import entry_points

from common.group import Group
from common.plugins import PLUGIN_POINTS


@dataclass(frozen=True)
class Plugin:
    """A plugin, or the name of one that is missing (`package` is None)."""

    point: str
    name: str
    package: str | None
    is_active: bool


def plugins(group: Group) -> list[Plugin]:
    """All that are installed or named, by plugin point."""
    found: list[Plugin] = []
    for point in PLUGIN_POINTS:
        named = getattr(group.plugins, point.removeprefix("callboard."))
        active = (named,) if isinstance(named, str) else named
        installed = {
            entry.name: entry.dist.name if entry.dist else None for entry in entry_points(group=point)
        }
        found += [
            Plugin(point, name, installed.get(name), name in active) for name in sorted({*installed, *active})
        ]
    return found
