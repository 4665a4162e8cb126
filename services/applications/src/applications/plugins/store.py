"""The plugin that keeps texts in the own database."""

import secrets
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

from applications.repository import Repository
from applications.settings import ApplicationsLimits
from common.plugins import PluginContext


class Store(AbstractAsyncContextManager["Store"]):
    """Texts in the database of this service, served at `/applications/<token>` until they expire."""

    def __init__(self, context: PluginContext) -> None:
        self._repository = Repository(context.database, context.limits(ApplicationsLimits))
        self._keep = timedelta(days=context.group.applications.keep_days)

    async def __aexit__(self, *_: object) -> None:
        return

    async def publish(self, text: str) -> str:
        """Keep the text under a token that cannot be guessed."""
        token = secrets.token_urlsafe(32)
        await self._repository.add_text(token, text, datetime.now(UTC) + self._keep)
        return f"applications/{token}"
