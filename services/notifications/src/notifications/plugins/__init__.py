"""The plugin point of notifications."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from common.plugins import PluginPoint
from notifications.models import News


class Notifier(AbstractAsyncContextManager[Any], Protocol):
    """`callboard.notify`: tells people what happened.

    A plugin is entered when the service starts and left when it stops.
    """

    def wants(self, kind: str) -> bool:
        """Whether news of this kind (`notifications.models.KINDS`) is told at all."""

    async def tell(self, news: Sequence[News]) -> int:
        """Tell the first of `news` in ONE message, with as many others after it as fit; answers how many.

        What was told is remembered after each message, so a crash repeats one at most. Give up after 30
        seconds at the latest. Raises `common.errors.Unavailable` when nothing can be told now: the same news
        come again until they are a day old. Raises `common.errors.InvalidEvent` for what can never be told.
        """


NOTIFY = PluginPoint("notify", "who is told what happened", Notifier)
