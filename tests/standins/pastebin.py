"""Pastebin: making pastes without an account, and reading them.

https://pastebin.com/doc_api
"""

import random
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from tests.standins import Standin, serving

KEY = "a-pastebin-key-of-the-stand-in"

_STEPS = ("N", "10M", "1H", "1D", "1W", "2W", "1M", "6M", "1Y")


@dataclass
class Paste:
    """What was sent."""

    text: str
    name: str
    private: str
    expires: str


class Pastebin(Standin):
    """The pastes by their keys; `most` may be made. An error is answered with `error_status`.

    Its documents call an answer a text and a paste's URL a URL: around them, blanks and a byte order mark come and
    go, and so does the "s" of "https".
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._random = random.Random(seed)  # noqa: S311 - oddities are no secrets
        self.key = KEY
        self.most = 10_000
        self.error_status = 422
        self.pastes: dict[str, Paste] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        """What it answers."""
        yield web.post("/api/api_post.php", self._post)
        yield web.get("/raw/{key}", self._raw)

    def failure(self, status: int) -> web.Response:
        """Its answer when it is broken, away or asked too often."""
        return web.Response(status=status, text="<!DOCTYPE html><title>Pastebin</title>")

    async def _post(self, request: web.Request) -> web.Response:
        form = await request.post()
        problem = self._problem({name: str(value) for name, value in form.items()})
        if problem:
            return web.Response(status=self.error_status, text=self._oddly(problem))
        key = secrets.token_hex(4)
        self.pastes[key] = Paste(
            str(form["api_paste_code"]),
            str(form["api_paste_name"]),
            str(form["api_paste_private"]),
            str(form["api_paste_expire_date"]),
        )
        scheme = self._random.choice(("http", "https", "HTTPS"))
        return web.Response(text=self._oddly(f"{scheme}://{self.url.partition('://')[2]}/{key}"))

    def _oddly(self, text: str) -> str:
        before = self._random.choice(("", "\ufeff", "\n"))
        return before + text + self._random.choice(("", " ", "\n", "\r\n"))

    def _problem(self, form: dict[str, str]) -> str:
        option = form.get("api_option")
        if option not in ("paste", "userdetails"):
            return "Bad API request, invalid api_option"
        if form.get("api_dev_key") != self.key:
            return "Bad API request, invalid api_dev_key"
        if option == "userdetails":
            return "Bad API request, invalid api_user_key"
        if not form.get("api_paste_code"):
            return "Bad API request, api_paste_code was empty"
        if form.get("api_paste_expire_date") not in _STEPS:
            return "Bad API request, invalid api_paste_expire_date"
        return "Post limit, maximum pastes per 24h reached" if len(self.pastes) >= self.most else ""

    async def _raw(self, request: web.Request) -> web.Response:
        paste = self.pastes.get(request.match_info["key"])
        return web.Response(status=404) if paste is None else web.Response(text=paste.text)


@asynccontextmanager
async def pastebin() -> AsyncIterator[Pastebin]:
    """Without pastes; its key is KEY."""
    standin = Pastebin()
    async with serving(standin):
        yield standin
