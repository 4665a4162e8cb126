"""The plugins that need no outside service: people and ranks from the configuration and from imports."""

from collections import Counter
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, field_validator

from accounts.errors import RankRefused
from accounts.models import KnownPerson, LocalPerson, Person
from accounts.repository import People, username_key
from common.coalesce import Coalescer
from common.errors import ConfigurationError
from common.group import Group
from common.outgoing.providers import Urgency
from common.plugins import PluginContext


class LocalOptions(BaseModel):
    """plugins.options.local: the people to begin with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    people: tuple[LocalPerson, ...] = ()

    @field_validator("people")
    @classmethod
    def _are_different(cls, people: tuple[LocalPerson, ...]) -> tuple[LocalPerson, ...]:
        for field, values in (
            ("id", [person.id for person in people]),
            ("username", [username_key(person.username) for person in people]),
            ("discord", [person.discord for person in people if person.discord is not None]),
        ):
            for value, times in Counter(values).most_common(1):
                if times > 1:
                    raise ValueError(f'{times} people have the {field} "{value}"; give each their own')
        return people


def configured_people(context: PluginContext) -> list[tuple[LocalPerson, int]]:
    """The people of `plugins.options.local` with their rankids. Raises ConfigurationError that names the key."""
    found = []
    for number, person in enumerate(context.options(LocalOptions).people):
        try:
            found.append((person, local_rankid(context.group, person.rank)))
        except ConfigurationError as error:
            key = f"plugins.options.{context.name}.people.{number}.rank"
            raise ConfigurationError(f"callboard.toml: {key}: {error}") from None
    return found


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
        configured_people(context)  # so that a mistake is found when the plugin is loaded

    async def __aenter__(self) -> Self:
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
        return found.id if found else None


class LocalRanking:
    """The ranks of the people that `LocalIdentity` knows."""

    def __init__(self, context: PluginContext) -> None:
        self._people = People(context.database)
        self._reads = Coalescer[int, KnownPerson | None](self._people.by_ids)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def read(self, user: int, urgency: Urgency) -> int | None:  # noqa: ARG002 - it is at hand
        """The person's rankid."""
        found = await self._reads.submit(user)
        return found.rankid if found else None

    async def set(self, user: int, rankid: int) -> None:
        """Set the person's rank. Raises RankRefused for somebody who was never imported."""
        if not await self._people.set_rank(user, rankid):
            raise RankRefused("nobody has imported this person")


def _person(found: KnownPerson | None) -> Person | None:
    return Person(id=found.id, username=found.username) if found and found.username is not None else None
