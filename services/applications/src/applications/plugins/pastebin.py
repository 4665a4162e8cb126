"""The plugin that keeps texts at Pastebin, as unlisted pastes, and a copy of each here: Pastebin hides some later.

Its API: https://pastebin.com/doc_api. Whatever the status, what it answers is a text: the URL, or why not.
"""

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from pydantic import BaseModel, ConfigDict, Field

from applications.plugins import Published
from applications.plugins.store import Store
from applications.settings import PastebinLimits
from common.errors import Unavailable
from common.outgoing.providers import Budget, Provider, fit_to_show
from common.plugins import Finding, PluginContext

logger = logging.getLogger(__name__)

# The days that each of its steps lasts, a month counted as 30.
_STEPS = {1: "1D", 7: "1W", 14: "2W", 30: "1M", 180: "6M", 365: "1Y"}

_REFUSAL = "bad api request"
_LIMIT = "post limit"
_WRONG_KEY = "invalid api_dev_key"
_NOTE = (
    "\nThis text is kept by Pastebin: whoever has its URL can read it. It is no place for personal data.\n"
)


class PastebinOptions(BaseModel):
    """plugins.options.pastebin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field("https://pastebin.com", pattern=r"^https?://\S+$")


class Pastebin(AbstractAsyncContextManager["Pastebin"]):
    """Texts at Pastebin, and a copy of each as `store` keeps it; what Pastebin does not take is kept here alone."""

    def __init__(self, context: PluginContext) -> None:
        self._url = context.options(PastebinOptions).url.rstrip("/")
        host = re.escape(self._url.partition("://")[2])
        self._paste_url = re.compile(rf"(?i:https?://{host})/([A-Za-z0-9]{{1,32}})/?")
        self._key = context.secret("pastebin_key")
        keep_days = context.group.applications.keep_days
        self._expires = max((days, step) for days, step in _STEPS.items() if days <= keep_days)[1]
        self._store = Store(context)
        self._provider = Provider("Pastebin", self._url)
        self._limits = context.limits(PastebinLimits)
        self._budget = Budget(self._limits.calls_per_minute)
        self._paused_until = 0.0

    async def __aexit__(self, *_: object) -> None:
        await self._provider.close()

    async def publish(self, text: str) -> str | Published:
        """Keep the text here, and make a paste of it whose bare text is what the URL shows."""
        copy = await self._store.publish(text)
        if time.monotonic() >= self._paused_until and (url := await self._paste(text)):
            return Published(url, copy)
        return copy

    async def examine(self) -> AsyncIterator[Finding]:
        """Whether Pastebin answers and knows the key: asked for the account of a user key that nobody has."""
        try:
            said = await self._post(
                self._limits.examine_seconds, api_option="userdetails", api_user_key="0" * 32
            )
        except Unavailable:
            mend = "Let this machine reach it (firewall, HTTPS_PROXY). Applications are kept here meanwhile."
            yield Finding(False, "Pastebin does not answer.", mend)
            return
        if _WRONG_KEY in said.lower():
            mend = f"Copy your developer key from {self._url}/doc_api into CALLBOARD_PASTEBIN_KEY."
            yield Finding(False, "Pastebin does not know the key.", mend)
        elif said.lower().startswith(_REFUSAL) and "api_user_key" in said:
            yield Finding(True, "Pastebin answers, and has nothing against the key.")
        else:
            mend = (
                "See whether the next application is kept at Pastebin; the log of applications tells why not."
            )
            yield Finding(
                True, f"Pastebin does not tell whether it knows the key. It said: {_shown(said)}", mend
            )
        yield Finding(
            True,
            "Whoever has the URL of an application can read it at Pastebin, and nobody here can delete it.",
            'It is unfit for personal data: "store" keeps applications here.',
        )

    async def _paste(self, text: str) -> str | None:
        """The URL of a new paste; None when none could be made."""
        try:
            said = await self._post(
                self._limits.paste_seconds,
                api_option="paste",
                api_paste_code=text + _NOTE,
                api_paste_name="Application",
                api_paste_private="1",
                api_paste_expire_date=self._expires,
            )
        except Unavailable:
            logger.warning("Pastebin is away: an application is kept here")
            return None
        if found := self._paste_url.fullmatch(said):
            return f"{self._url}/raw/{found[1]}"
        if said.lower().startswith(_LIMIT):
            self._paused_until = time.monotonic() + self._limits.pause_seconds
            logger.warning("Pastebin takes no more today: applications are kept here meanwhile")
        elif _WRONG_KEY in said.lower():
            logger.error("Pastebin does not know the key CALLBOARD_PASTEBIN_KEY: an application is kept here")
        else:
            logger.warning("Pastebin made no paste, an application is kept here; it said: %s", _shown(said))
        return None

    async def _post(self, seconds: float, **form: str) -> str:
        answer = await self._provider.call(
            "POST",
            "/api/api_post.php",
            budget=self._budget,
            seconds=seconds,
            attempts=1,  # another would make another paste, should the first have been made
            data={"api_dev_key": self._key.get_secret_value(), **form},
        )
        return answer.body.decode("utf-8", "replace").strip("\ufeff \t\r\n")


def _shown(text: str) -> str:
    """An error of Pastebin's, made fit to be shown; other texts may hold anything."""
    if not text.lower().startswith((_REFUSAL, _LIMIT)):
        return "(neither the URL of a paste nor an error that its documents tell of)"
    return fit_to_show(text)
