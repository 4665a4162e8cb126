"""Plugin points of accounts, and the plugins that need no outside service.

A plugin is entered when the service starts and left when it stops. A provider that is away raises
`common.errors.Unavailable`; anything else that is raised counts as a fault of the plugin.
"""

from types import TracebackType
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict

from accounts.errors import RankRefused
from accounts.models import LocalPerson, Person
from accounts.repository import People
from common.coalesce import Coalescer
from common.errors import ConfigurationError
from common.group import Group
from common.mongo import Document
from common.plugins import PluginContext


class _Entered(Protocol):
    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Identity(_Entered, Protocol):
    """`callboard.identity`: who is who. None means that this plugin does not know; the next is asked."""

    async def by_id(self, user: int) -> Person | None:
        """The person with this Roblox id."""

    async def by_username(self, username: str) -> Person | None:
        """The person with this username, in any case."""

    async def by_discord(self, discord: int) -> int | None:
        """The Roblox id that belongs to this Discord id."""


class Ranking(_Entered, Protocol):
    """`callboard.ranking`: where ranks are read and set."""

    async def read(self, user: int) -> int | None:
        """The rankid of this user; None for one who is not in the group."""

    async def set(self, user: int, rankid: int) -> None:
        """Give this user a rank of the ladder; doing it again changes nothing. Raises RankRefused."""


class LocalOptions(BaseModel):
    """plugins.options.local: the people to begin with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    people: tuple[LocalPerson, ...] = ()


def local_rankid(group: Group, rank: str | int) -> int:
    """The rankid of a rank given by name, in any case, or by number. Raises ConfigurationError."""
    text = str(rank).strip()
    known = {str(rung.rankid): rung.rankid for rung in group.ranks.ladder}
    if text in known:
        return known[text]
    try:
        return group.rank_named(text).rankid
    except KeyError:
        names = ", ".join(rung.name for rung in group.ranks.ladder)
        raise ConfigurationError(f'There is no rank "{text}"; there are: {names}.') from None


class LocalIdentity:
    """People from the configuration and from `callboard people import`."""

    def __init__(self, context: PluginContext) -> None:
        self._people = People(context.database)
        self._first = [
            (person, local_rankid(context.group, person.rank))
            for person in context.options(LocalOptions).people
        ]

    async def __aenter__(self) -> Self:
        for person, rankid in self._first:
            await self._people.add(person.id, person.username, rankid, person.discord)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def by_id(self, user: int) -> Person | None:
        """The person with this id."""
        (found,) = await self._people.by_ids([user])
        return _person(found)

    async def by_username(self, username: str) -> Person | None:
        """The person with this username, in any case."""
        return _person(await self._people.by_username(username))

    async def by_discord(self, discord: int) -> int | None:
        """The id of the person with this Discord account."""
        found = await self._people.by_discord(discord)
        return found["_id"] if found else None


class LocalRanking:
    """The ranks of the people that `LocalIdentity` knows."""

    def __init__(self, context: PluginContext) -> None:
        self._people = People(context.database)
        self._reads = Coalescer[int, Document | None](self._people.by_ids)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def read(self, user: int) -> int | None:
        """The person's rankid."""
        found = await self._reads.submit(user)
        return found["rankid"] if found else None

    async def set(self, user: int, rankid: int) -> None:
        """Set the person's rank. Raises RankRefused for somebody who was never imported."""
        if not await self._people.set_rank(user, rankid):
            raise RankRefused("nobody has imported this person")


def _person(found: Document | None) -> Person | None:
    return Person(id=found["_id"], username=found["username"]) if found else None
