"""The plugins that need no outside service: people and ranks from the configuration and from imports."""

from functools import partial
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict

from accounts.errors import RankRefused
from accounts.models import LocalPerson, Person
from accounts.repository import People
from common.coalesce import Coalescer
from common.errors import ConfigurationError
from common.group import Group
from common.mongo import Document, when_there
from common.plugins import PluginContext
from common.providers import Urgency


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
            await when_there(partial(self._people.add, person.id, person.username, rankid, person.discord))
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

    async def read(self, user: int, urgency: Urgency) -> int | None:  # noqa: ARG002 - it is at hand
        """The person's rankid."""
        found = await self._reads.submit(user)
        return found["rankid"] if found else None

    async def set(self, user: int, rankid: int) -> None:
        """Set the person's rank. Raises RankRefused for somebody who was never imported."""
        if not await self._people.set_rank(user, rankid):
            raise RankRefused("nobody has imported this person")


def _person(found: Document | None) -> Person | None:
    return Person(id=found["_id"], username=found["username"]) if found else None
