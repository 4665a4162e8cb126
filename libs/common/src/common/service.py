"""What a service declares of itself, once: whatever runs, checks or describes services follows from it.

A service is found by its entry point in the group `callboard.services`, which names the declaration in its `main.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi import APIRouter

from common.background import Work, background
from common.dead_letters import DEAD_LETTERS
from common.events import Event
from common.group import Group
from common.messaging.handling import Handler
from common.mongo import Collection, Database
from common.outbox import OUTBOX, Outbox
from common.outgoing.local import Apps
from common.outgoing.peer import Peer
from common.plugins import PluginPoint, enter
from common.settings import Settings

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Chassis(Generic[S]):
    """What a service builds on; handed to its `open` when it starts."""

    settings: S
    group: Group
    database: Database
    outbox: Outbox
    apps: Apps
    stack: AsyncExitStack

    def peer(self, name: str) -> Peer:
        """Another service, at the URLs of the setting `<name>_url`; closed with this one."""
        urls = getattr(self.settings, f"{name}_url")
        token = self.settings.internal_token.get_secret_value()
        peer = Peer(name, urls, token, self.apps, self.settings.outgoing)
        self.stack.push_async_callback(peer.close)
        return peer

    async def plugins(self, point: PluginPoint) -> Mapping[str, Any]:
        """The plugins of this point that the group uses, by name, in order; left with this service."""
        return await enter(self.stack, point, self.group, self.database, self.settings)

    async def background(self, work: Work) -> None:
        """Run `work` for as long as the service runs; it starts again should it fail."""
        await self.stack.enter_async_context(background(work))


@dataclass(frozen=True)
class Service(Generic[S]):
    """A service. `open` makes its use cases: routes find them at `app.state.service`, handlers are their methods."""

    name: str
    """Of its package, its database and its consumer; in metrics, logs and `callboard.toml`."""
    settings: type[S]
    open: Callable[[Chassis[S]], AbstractAsyncContextManager[Any]]
    routers: Sequence[APIRouter] = ()
    collections: Sequence[Collection] = ()
    """Of its own. They are checked when it starts, and made by `callboard migrate`."""
    handles: Mapping[type[Event], Handler] = field(default_factory=dict)
    """The use case that each event comes to."""
    hears: Callable[[Group], bool] = lambda _: True
    """Whether events are read for it in this group: not where it has nobody to tell, for instance."""
    publishes: Sequence[type[Event]] = ()
    plugin_points: Sequence[PluginPoint] = ()

    @property
    def all_collections(self) -> Sequence[Collection]:
        """Its own, the outbox of one that publishes, and the dead letters of one that handles."""
        return (
            *self.collections,
            *((OUTBOX,) if self.publishes else ()),
            *((DEAD_LETTERS,) if self.handles else ()),
        )
