"""Plugin points of accounts.

A plugin is entered when the service starts and left when it stops. A provider that is away raises
`common.errors.Unavailable`; anything else that is raised counts as a fault of the plugin.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self, runtime_checkable

from accounts.models import Person
from common.outgoing.providers import Urgency
from common.plugins import PluginPoint


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

    async def read(self, user: int, urgency: Urgency) -> int | None:
        """The rankid of this user; None for one who is not in the group.

        Given up on after 10 s, and for a DECISION after 2 s.
        """

    async def set(self, user: int, rankid: int) -> None:
        """Give this user a rank of the ladder; doing it again changes nothing. Raises RankRefused.

        Given up on after 3 s, with the rank set or not.
        """


IDENTITY = PluginPoint("identity", "username to id and back, and Discord id to Roblox id", Identity)
RANKING = PluginPoint("ranking", "read and set a member's group rank", Ranking)


class MembersPage(NamedTuple):
    """Some members of the group with their rankids, and where the next page begins ("" after the last).

    `omitted` is how many of the page could not be read: a list with such a page is not complete.
    """

    members: Sequence[tuple[int, int]]
    next: str
    omitted: int = 0


@runtime_checkable
class OutsideRanking(Ranking, Protocol):
    """A ranking plugin whose ranks are kept, and changed, elsewhere.

    To read may take long or fail, so what was read is stored, served until it is too old, and read again.
    """

    async def members(self, cursor: str) -> MembersPage:
        """The page of all members that begins at `cursor` ("" for the first).

        Those whose rank is the lowest of the ladder may be left out. Raises CursorLost when the walk must
        begin anew. Given up on after 20 s.
        """


class CursorLost(Exception):
    """The provider does not know this place in its list any more."""
