"""The plugins for a group on Roblox: who is who, and the ranks that its roles stand for."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from accounts.errors import RankRefused
from accounts.models import Person
from accounts.plugins import CursorLost, MembersPage
from accounts.plugins.memory import Memory
from accounts.plugins.roblox_api import (
    BASE_RANK,
    LARGEST_BATCH,
    OWNER_RANK,
    Membership,
    OpenCloud,
    Refused,
    Role,
    Users,
    Wait,
)
from accounts.plugins.roblox_check import check_key, check_roles
from accounts.plugins.stored import RobloxRoles
from common.background import background
from common.coalesce import Coalescer
from common.errors import ConfigurationError, Unavailable
from common.group import Group
from common.mongo import is_outage
from common.outgoing.providers import Complaints, Urgency
from common.plugins import Finding, PluginContext
from common.query import Id

logger = logging.getLogger(__name__)

_READ_SECONDS = {Urgency.DECISION: 1.9, Urgency.PLAYER: 1.9, Urgency.BACKGROUND: 10.0}
_SET_SECONDS = 2.8
_LONGEST_CALL_SECONDS = 1.9
_ROLES_SECONDS = 3600.0
_ROLES_RETRY_SECONDS = 1.0  # at first
_LONGEST_RETRY_SECONDS = 60.0

_JOIN_FIRST = (
    "This person isn't in the group yet. Ask them to join it on Roblox (or to send a join request), "
    "then approve them again."
)

Key = TypeVar("Key")


class RobloxOptions(BaseModel):
    """plugins.options.roblox: the group, and the role ids that stand for ranks of the ladder, by their names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: Id | None = None
    roles: Mapping[str, Id] = Field(default_factory=dict)
    replicas: int = Field(1, ge=1, le=20)
    open_cloud_url: str = Field("https://apis.roblox.com", pattern=r"^https?://\S+$")
    users_url: str = Field("https://users.roblox.com", pattern=r"^https?://\S+$")


class _LookUp(Generic[Key]):
    """People by one kind of key: asked for many at once, and remembered for a while; unknown ones too."""

    def __init__(self, ask: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Person | Unavailable]]]) -> None:
        self._ask = ask
        self._memory = Memory[Key, Person]()
        self._asks = Coalescer[Key, Person | None](
            self._find_all, limit=LARGEST_BATCH, own_error=lambda error: isinstance(error, Refused)
        )

    async def find(self, key: Key) -> Person | None:
        """The person, as known or as Roblox tells. Raises Unavailable."""
        told = self._memory.recall(key)
        if told is not None:
            return told.value
        try:
            return await self._asks.submit(key)
        except Refused:  # nobody has such a name or id
            return self._memory.note(key, None)

    async def _find_all(self, keys: Sequence[Key]) -> Sequence[Person | Exception | None]:
        # Those asked for while the call before was under way may be known by now.
        known = {key: self._memory.recall(key) for key in keys}
        unknown = [key for key, one in known.items() if one is None]
        found = await self._ask(unknown) if unknown else {}
        people: dict[Key, Person | Exception | None] = {
            key: one.value for key, one in known.items() if one is not None
        }
        for key in unknown:
            one = found.get(key)
            people[key] = one if isinstance(one, Unavailable) else self._memory.note(key, one)
        return [people[key] for key in keys]


class RobloxIdentity:
    """Everybody on Roblox. A name that somebody had before leads to them, with the name that they have now."""

    def __init__(self, context: PluginContext) -> None:
        options = context.options(RobloxOptions)
        self._users = Users(options.users_url, options.replicas)
        self._by_name = _LookUp[str](self._ask_names)
        self._by_id = _LookUp[int](self._ask_ids)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._users.close()

    async def by_id(self, user: int) -> Person | None:
        """The person with this id."""
        return await self._by_id.find(user)

    async def by_username(self, username: str) -> Person | None:
        """The person who has this username, in any case, or else had it before."""
        # No name on Roblox has other characters; in lower case, some of those become others.
        return await self._by_name.find(username.lower()) if username.isascii() else None

    async def by_discord(self, discord: int) -> int | None:  # noqa: ARG002 - Roblox does not tell
        """None: Roblox knows no Discord accounts."""
        return None

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether the users API answers."""
        try:
            await self._users.by_ids([1], Wait(Urgency.PLAYER, 5.0))
        except (Unavailable, Refused):
            mend = "Let this machine reach users.roblox.com (firewall, HTTPS_PROXY); see status.roblox.com."
            yield Finding(False, "Roblox does not tell who is who.", mend)
        else:
            yield Finding(True, "Roblox tells who is who.")

    async def _ask_names(self, names: Sequence[str]) -> Mapping[str, Person | Unavailable]:
        found: dict[str, Person] = {}
        read_at = datetime.now(UTC)
        answer = await self._users.by_usernames(names, _wait(Urgency.PLAYER))
        for user in answer.items:
            asked = user.requested.lower()
            if asked not in found or user.name.lower() == asked:  # whoever has the name goes first
                found[asked] = Person(user.id, user.name, read_at)
        return _unless_omitted(names, answer.omitted) | found

    async def _ask_ids(self, users: Sequence[int]) -> Mapping[int, Person | Unavailable]:
        read_at = datetime.now(UTC)
        answer = await self._users.by_ids(users, _wait(Urgency.PLAYER))
        found = {user.id: Person(user.id, user.name, read_at) for user in answer.items}
        return _unless_omitted(users, answer.omitted) | found


class RobloxRanking:
    """The ranks of the ladder as roles of the group, through Open Cloud.

    A rank's role is the one in `plugins.options.roblox.roles`, or the only one of the group with that rank; that
    one's id is kept, so it stays the same whatever rank it gets. A lowest rank of 0 has no role: it is that of
    all who hold none of the others. Roles that stand for no rank are never touched.
    """

    def __init__(self, context: PluginContext) -> None:
        options = context.options(RobloxOptions)
        if options.group is None:
            raise ConfigurationError("callboard.toml: plugins.options.roblox.group: expected the group's id.")
        self._group = options.group
        self._lowest = context.group.ranks.ladder[0].rankid
        self._managed = {rung.rankid: rung.name for rung in context.group.ranks.ladder if rung.rankid > 0}
        self._given = _given_roles(context.group, options.roles)
        self._kept = RobloxRoles(context.database)
        self._cloud = OpenCloud(
            options.open_cloud_url, options.group, context.secret("roblox_key"), options.replicas
        )
        self._roles: dict[int, int] | None = None
        """The role of each rank, by rankid; None until they are known."""
        self._unkept: Mapping[int, int] | None = None
        self._untouchable: frozenset[int] | None = None
        """The roles that nobody can be rid of; None until Roblox told them."""
        self._complaints = Complaints()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._cloud.close)
        is_resolved = await self._try_to_resolve()
        await self._stack.enter_async_context(background(lambda: self._keep_resolved(is_resolved)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def read(self, user: int, urgency: Urgency) -> int | None:
        """The highest of the ladder's ranks that this user holds a role of."""
        roles = await self._known_roles()
        try:
            membership = await self._cloud.membership(user, _wait(urgency))
        except Refused as refused:
            raise self._confused(refused) from None
        return None if membership is None else self._rankid(membership, roles)

    async def members(self, cursor: str) -> MembersPage:
        """A page of the members who hold a role of a rank; a cursor is Roblox's page token."""
        roles = await self._known_roles()
        try:
            page = await self._cloud.memberships(cursor, _wait(Urgency.BACKGROUND))
        except Refused as refused:
            if cursor and refused.code == "INVALID_ARGUMENT":
                raise CursorLost from None
            raise self._confused(refused) from None
        ranked = ((one.user, self._rankid(one, roles)) for one in page.items)
        members = [(user, rank) for user, rank in ranked if rank > self._lowest]
        return MembersPage(members, page.next or "", page.omitted)

    async def set(self, user: int, rankid: int) -> None:
        """Give a member the rank's role, then take those of the other ranks; the first may join for it."""
        roles = await self._known_roles()
        if self._untouchable is None:
            raise Unavailable("Roblox")
        if rankid in self._managed and rankid not in roles:
            raise RankRefused(f"the group has no role for the rank {self._managed[rankid]}")
        deadline = time.monotonic() + _SET_SECONDS

        def wait() -> Wait:
            return Wait(Urgency.DECISION, min(_LONGEST_CALL_SECONDS, deadline - time.monotonic()))

        wanted = roles.get(rankid)
        try:
            membership = await self._cloud.membership(user, wait())
            if membership is None:
                if wanted is None:
                    return
                membership = await self._let_in(user, wait)
            held = membership.roles
            if (
                wanted is not None
            ):  # though it seems to be held: what was read may be a copy from before a change
                held |= (await self._cloud.assign(user, wanted, wait())).roles
            others = set(roles.values()) - {wanted} - self._untouchable
            for role in sorted(others & held):
                await self._cloud.unassign(user, role, wait())
        except Refused as refused:
            logger.warning("Roblox refuses to set a rank to %d: %s", rankid, refused)
            raise RankRefused(f"Roblox: {refused}") from None

    async def examine(self) -> AsyncIterator[Finding]:
        """The key, the clock, the group, and the role of each rank."""
        async for finding in check_key(self._cloud, self._group):
            yield finding
        try:
            roles = await self._cloud.roles(Wait(Urgency.PLAYER, 5.0))
        except Unavailable:
            yield Finding(
                False, "The group's roles cannot be read.", "Mend what stands above, then look again."
            )
        except Refused as refused:
            mend = "Set plugins.options.roblox.group to the number in the address of the group's page."
            yield Finding(False, f"Group {self._group} is not found: {refused}", mend)
        else:
            yield Finding(True, f"Group {self._group} is found.")
            found = _find_roles(self._managed, self._given, self._roles or {}, roles)
            for finding in check_roles(self._managed, self._given, found, roles):
                yield finding

    async def _let_in(self, user: int, wait: Callable[[], Wait]) -> Membership:
        """Accept the user's join request, and answer their membership. Raises RankRefused without a request."""
        is_accepted = False
        if await self._cloud.has_join_request(user, wait()):
            try:
                await self._cloud.accept(user, wait())
                is_accepted = True
            except Refused as refused:
                if refused.code != "NOT_FOUND":
                    raise
                # Somebody accepted it just now; or we did, and the answer was lost.
        if membership := await self._cloud.membership(user, wait()):
            return membership
        if is_accepted:  # Roblox takes its time
            raise Unavailable("Roblox")
        raise RankRefused("not a member of the group, and no request to join it", discord=_JOIN_FIRST)

    async def _keep_resolved(self, is_resolved: bool) -> None:
        retry = _ROLES_RETRY_SECONDS
        while True:
            seconds = _ROLES_SECONDS if is_resolved else retry
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads replicas
            is_resolved = await self._try_to_resolve()
            retry = _ROLES_RETRY_SECONDS if is_resolved else min(retry * 2, _LONGEST_RETRY_SECONDS)

    async def _try_to_resolve(self) -> bool:
        try:
            await self._resolve()
        except (Unavailable, Refused) as error:
            logger.warning("the roles of group %d are not read: %s", self._group, error)
        except Exception as error:
            if not is_outage(error):
                raise
            logger.warning("the roles of group %d are not read: MongoDB is away", self._group)
        else:
            return True
        return False

    async def _resolve(self) -> None:
        """Learn which role stands for which rank, from what was kept and from Roblox."""
        kept = await self._kept.find(self._group)
        if self._roles is None and set(self._managed) <= set(self._given) | set(kept):
            self._roles = {rankid: (kept | self._given)[rankid] for rankid in self._managed}
        roles = await self._cloud.roles(_wait(Urgency.DECISION))
        found = _find_roles(self._managed, self._given, kept, roles)
        for rankid in set(self._managed) - set(found):
            logger.warning(
                'the rank "%s" (%d) has no role in group %d: nobody holds it, and it cannot be given; '
                '"callboard doctor" lists the roles',
                self._managed[rankid],
                rankid,
                self._group,
            )
        self._roles = found
        own = {rankid: role for rankid, role in found.items() if rankid not in self._given}
        self._unkept = own if own != kept else None
        self._untouchable = frozenset(role.id for role in roles if role.rank in (BASE_RANK, OWNER_RANK))

    async def _known_roles(self) -> Mapping[int, int]:
        if self._roles is None:
            raise Unavailable("Roblox")
        if (unkept := self._unkept) is not None:  # kept where it is used: to examine changes nothing
            await self._kept.keep(self._group, unkept)
            if self._unkept is unkept:
                self._unkept = None
        return self._roles

    def _rankid(self, membership: Membership, roles: Mapping[int, int]) -> int:
        held = (rankid for rankid, role in roles.items() if role in membership.roles)
        return max(held, default=self._lowest)

    def _confused(self, refused: Refused) -> Unavailable:
        if self._complaints.are_due():
            logger.error("Roblox tells nothing of the members of group %d: %s", self._group, refused)
        return Unavailable("Roblox")


def _unless_omitted(keys: Sequence[Key], omitted: int) -> dict[Key, Person | Unavailable]:
    """Whoever is not in a list of which some could not be read may be one of those."""
    return {key: Unavailable("Roblox users") for key in keys} if omitted else {}


def _wait(urgency: Urgency) -> Wait:
    return Wait(urgency, _READ_SECONDS[urgency])


def _given_roles(group: Group, roles: Mapping[str, int]) -> dict[int, int]:
    """The configured role ids by rankid. Raises ConfigurationError."""
    given: dict[int, int] = {}
    for name, role in roles.items():
        key = f'callboard.toml: plugins.options.roblox.roles."{name}"'
        try:
            rung = group.rank_named(name)
        except KeyError:
            raise ConfigurationError(f"{key}: expected the name of a rank of ranks.ladder.") from None
        if rung.rankid == 0:
            raise ConfigurationError(f"{key}: a rank of 0 has no role, it is that of those without one.")
        if role in given.values() or rung.rankid in given:
            raise ConfigurationError(f"{key}: expected each rank and each role once.")
        given[rung.rankid] = role
    return given


def _find_roles(
    managed: Mapping[int, str], given: Mapping[int, int], kept: Mapping[int, int], roles: Sequence[Role]
) -> dict[int, int]:
    """The role of each rank that has one: as given, else as kept, else the only one left with that rank."""
    present = {role.id for role in roles}
    found = {rankid: role for rankid, role in given.items() if role in present}
    for rankid, role in kept.items():
        if rankid in managed and rankid not in given and role in present - set(found.values()):
            found[rankid] = role
    taken = {*found.values(), *given.values()}
    for rankid in managed:
        if rankid not in found and rankid not in given:
            of_this_rank = [role.id for role in roles if role.rank == rankid and role.id not in taken]
            if len(of_this_rank) == 1:
                found[rankid] = of_this_rank[0]
    return found
