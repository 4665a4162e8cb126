"""Discord: the webhooks of its channels, as far as an incoming message needs them.

https://docs.discord.com/developers/resources/webhook and .../topics/rate-limits
"""

import itertools
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.standins import Standin, serving
from tests.support import unique_id

LONGEST_CONTENT = 2000
_KNOWN_FIELDS = {"content", "allowed_mentions", "username", "avatar_url", "tts", "embeds", "flags"}
_MENTIONS = {"parse", "roles", "users", "replied_user"}


@dataclass
class Webhook:
    """A webhook of one channel, and the messages that it wrote; `per_window` of them pass in `window` seconds."""

    url: str
    token: str
    id: int = field(default_factory=unique_id)
    channel: int = field(default_factory=unique_id)
    name: str = "Callboard"
    per_window: int = 5
    window: float = 2.0
    is_deleted: bool = False
    is_in_forum: bool = False
    forbidden: str = ""
    """A message with this text in it is refused, as one with a harmful link is."""
    messages: list[str] = field(default_factory=list)
    _at: deque[float] = field(default_factory=deque)

    @property
    def lines(self) -> list[str]:
        """The lines of all messages."""
        return [line for message in self.messages for line in message.splitlines()]

    def spend(self) -> tuple[int, float]:
        """Count a request; how many are left (below 0: too many), and in how many seconds all will be."""
        now = time.monotonic()
        while self._at and self._at[0] <= now - self.window:
            self._at.popleft()
        left = self.per_window - len(self._at) - 1
        if left >= 0:
            self._at.append(now)
        return left, self._at[0] + self.window - now if self._at else self.window


class Discord(Standin):
    """The webhooks by id, and what was written through them."""

    def __init__(self) -> None:
        super().__init__()
        self.webhooks: dict[int, Webhook] = {}
        self._message_ids = itertools.count(10**18)

    def webhook(self, **given: Any) -> Webhook:
        """A new webhook; its `url` is what its owner keeps secret."""
        webhook = Webhook("", secrets.token_urlsafe(48), **given)
        webhook.url = f"{self.url}/api/webhooks/{webhook.id}/{webhook.token}"
        self.webhooks[webhook.id] = webhook
        return webhook

    def routes(self) -> Iterable[web.RouteDef]:
        """What it answers. The URLs that it shows have no version, and lead to an old one, which is not here."""
        return (
            web.get("/api/v10/webhooks/{id}/{token}", self._show),
            web.post("/api/v10/webhooks/{id}/{token}", self._write),
        )

    def failure(self, status: int) -> web.Response:
        """Its answer when it is broken, away or asked too often."""
        if status == 429:
            return _limited(self.faults.retry_after, is_global=True)
        return web.Response(status=status, text="upstream connect error")

    async def _show(self, request: web.Request) -> web.Response:
        webhook = self._find(request)
        if isinstance(webhook, web.Response):
            return webhook
        told = {"id": str(webhook.id), "type": 1, "name": webhook.name, "channel_id": str(webhook.channel)}
        return web.json_response({**told, "token": webhook.token, "avatar": None, "application_id": None})

    async def _write(self, request: web.Request) -> web.Response:
        webhook = self._find(request)
        if isinstance(webhook, web.Response):
            return webhook
        left, seconds = webhook.spend()
        if left < 0:
            return _limited(seconds, is_global=False)
        headers = {
            "x-ratelimit-limit": str(webhook.per_window),
            "x-ratelimit-remaining": str(left),
            "x-ratelimit-reset": f"{time.time() + seconds:.3f}",
            "x-ratelimit-reset-after": f"{seconds:.3f}",
            "x-ratelimit-bucket": "a",
        }
        payload = json.loads(await request.read())
        if webhook.is_in_forum:
            message = "Webhooks posted to forum channels must have a thread_name or thread_id"
            return web.json_response({"message": message, "code": 220001}, status=400, headers=headers)
        if problem := _problem(payload):
            code, message = problem
            return web.json_response({"message": message, "code": code}, status=400, headers=headers)
        content = payload["content"].strip()
        if webhook.forbidden and webhook.forbidden in content:
            body = {"message": "Message blocked by harmful links filter", "code": 240000}
            return web.json_response(body, status=400, headers=headers)
        webhook.messages.append(content)
        if request.query.get("wait") != "true":
            return web.Response(status=204, headers=headers)
        body = {
            "id": str(next(self._message_ids)),
            "type": 0,
            "content": content,
            "channel_id": str(webhook.channel),
            "webhook_id": str(webhook.id),
        }
        return web.json_response(body, headers=headers)

    def _find(self, request: web.Request) -> Webhook | web.Response:
        webhook = self.webhooks.get(int(request.match_info["id"]))
        if webhook is None or webhook.is_deleted:
            return web.json_response({"message": "Unknown Webhook", "code": 10015}, status=404)
        if webhook.token != request.match_info["token"]:
            return web.json_response({"message": "Invalid Webhook Token", "code": 50027}, status=401)
        return webhook


def _problem(payload: Any) -> tuple[int, str] | None:
    """What Discord would find wrong with a message: its code and its words."""
    if not isinstance(payload, dict) or not payload.keys() <= _KNOWN_FIELDS:
        return 50035, "Invalid Form Body"
    content, mentions = payload.get("content"), payload.get("allowed_mentions", {})
    if not isinstance(content, str) or not content.strip():
        return 50006, "Cannot send an empty message"
    # In the count that is highest: the documents do not say which one it is.
    if len(content.encode("utf-16-le")) // 2 > LONGEST_CONTENT:
        return 50035, "Invalid Form Body"
    if not isinstance(mentions, dict) or not mentions.keys() <= _MENTIONS:
        return 50035, "Invalid Form Body"
    return None


def _limited(seconds: float, *, is_global: bool) -> web.Response:
    body = {"message": "You are being rate limited.", "retry_after": round(seconds, 3), "global": is_global}
    headers = {"retry-after": f"{seconds:.3f}", "x-ratelimit-scope": "global" if is_global else "user"}
    if is_global:
        headers["x-ratelimit-global"] = "true"
    return web.json_response(body, status=429, headers=headers)


@asynccontextmanager
async def discord() -> AsyncIterator[Discord]:
    """A Discord without webhooks."""
    standin = Discord()
    async with serving(standin):
        yield standin
