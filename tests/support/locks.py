"""Documents that a transaction holds that nobody ends, as one does whose process has died."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from common.mongo import Documents


@asynccontextmanager
async def held(documents: Documents, which: Mapping[str, Any]) -> AsyncIterator[None]:
    """Hold one document for as long as this is entered; it is unchanged afterwards.

    MongoDB would end such a transaction after 5 s here, and after a minute where nothing is set.
    """
    client = documents.database.client
    limit = "transactionLifetimeLimitSeconds"
    async with client.start_session() as dead:
        # For this one alone: those of processes that a test kills end as they always do.
        before = await client.admin.command({"setParameter": 1, limit: 120})
        try:
            await dead.start_transaction()
            found = await documents.update_one(which, {"$set": {"held": True}}, session=dead)
        finally:
            await client.admin.command({"setParameter": 1, limit: before["was"]})
        assert found.matched_count == 1
        yield
        await dead.abort_transaction()
