"""What the plugins that ask other companies store here, for when those are away."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from accounts.repository import LINKS, ROBLOX_ROLES
from common.mongo import Database

LINKS_TRUSTED_FOR = timedelta(days=7)
"""A link that its owner removed is not seen while its company is away: it is served no longer than this."""


class RobloxRoles:
    """Which role of a Roblox group stands for which rank of the ladder."""

    def __init__(self, database: Database) -> None:
        self._roles = database[ROBLOX_ROLES.name]

    async def find(self, group: int) -> dict[int, int]:
        """The role ids that were found last, by rankid."""
        found = await self._roles.find_one({"_id": group})
        return {int(rankid): role for rankid, role in found["roles"].items()} if found else {}

    async def keep(self, group: int, roles: Mapping[int, int]) -> None:
        """Note the role ids by rankid."""
        named = {str(rankid): role for rankid, role in roles.items()}
        await self._roles.update_one({"_id": group}, {"$set": {"roles": named}}, upsert=True)


class Links:
    """Which Roblox account a Discord account belongs to, and which identity plugin learnt it."""

    def __init__(self, database: Database) -> None:
        self._links = database[LINKS.name]

    async def find(self, discord: int, plugins: Sequence[str]) -> int | None:
        """The user, as one of these plugins learnt within LINKS_TRUSTED_FOR."""
        since = datetime.now(UTC) - LINKS_TRUSTED_FOR
        found = await self._links.find_one(
            {"_id": discord, "plugin": {"$in": list(plugins)}, "read_at": {"$gte": since}}
        )
        return found["user"] if found else None

    async def keep(self, discord: int, user: int, plugin: str) -> None:
        """Note a link, in place of any other of this Discord account."""
        link = {"user": user, "plugin": plugin, "read_at": datetime.now(UTC)}
        await self._links.update_one({"_id": discord}, {"$set": link}, upsert=True)

    async def forget(self, discord: int, plugin: str) -> None:
        """Forget a link that this plugin learnt, and that is no more."""
        await self._links.delete_one({"_id": discord, "plugin": plugin})
