"""Draws discord-messages.svg beside it: each kind of news with its default text, as Discord shows it.

python docs/pictures/discord_messages.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from xml.sax.saxutils import escape

from common.events import (
    ApplicationApproved,
    ApplicationSubmitted,
    CertificationGranted,
    CertificationRevoked,
    Event,
    ShiftLogged,
)
from common.group import load_group
from notifications.models import News
from notifications.plugins.discord import DiscordOptions
from notifications.plugins.discord_text import render
from notifications.service import news_of

PICTURE = Path(__file__).with_name("discord-messages.svg")
_GROUP = load_group(Path(__file__).parents[2] / "callboard.toml")

_WIDTH, _LEFT, _TOP, _LINE, _GAP = 820, 88, 66, 24, 8
_COLUMNS = 84
_BOLD, _LINK = 'font-weight="700" fill="#f2f3f5"', 'fill="#00a8fc"'
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"
 font-family="'gg sans', 'Noto Sans', 'Helvetica Neue', Helvetica, Arial, sans-serif" font-size="16">
<title>What Callboard tells a Discord channel</title>
<rect width="{width}" height="{height}" rx="8" fill="#313338"/>
<circle cx="44" cy="44" r="20" fill="#5865f2"/>
<text x="44" y="50" text-anchor="middle" font-weight="700" fill="#ffffff">C</text>
<text x="{left}" y="40" textLength="76" font-weight="700" fill="#f2f3f5">Callboard</text>
<rect x="172" y="27" width="34" height="16" rx="4" fill="#5865f2"/>
<text x="189" y="39" text-anchor="middle" font-size="11" font-weight="700" fill="#ffffff">APP</text>
<text x="214" y="40" font-size="12" fill="#949ba4">Today at 18:04</text>
"""


def _shift(duration: int, **given: object) -> ShiftLogged:
    values = {
        "user": 3,
        "place": 1001,
        "server": "a",
        "training": False,
        "started_at": 0,
        "ended_at": duration,
        "duration": duration,
        "credited_seconds": duration,
        "points": duration // 60,
        "logged_by": "game",
    }
    return ShiftLogged.model_validate(values | given)


_EVENTS: tuple[Event, ...] = (
    ApplicationSubmitted(application="1", user=2, url="https://park.example/applications/7rT1c0VqzM"),
    ApplicationApproved(
        application="1", user=2, username="Coaster_Kay", rank="University Student", moderator="Robin"
    ),
    CertificationGranted(user=2, username="Coaster_Kay", certification="tot", version=1, moderator="Robin"),
    CertificationRevoked(user=4, username="MapleFox", certification="char", version=2, moderator="Robin"),
    _shift(9 * 3600 + 1800),
    _shift(2 * 3600, flags=("overlap",), credited_seconds=75 * 60),
)
_NAMES = {"2": "Coaster_Kay", "3": "Late_Larry"}


def messages() -> Iterator[tuple[News, str]]:
    """News of every kind, and the message that tells it."""
    texts = DiscordOptions().model_dump()
    for event in _EVENTS:
        for news in news_of(event, _GROUP):
            fields = {"username": _NAMES.get(news.fields["id"], ""), **news.fields}
            yield news, render(texts[news.kind], fields)


def svg() -> str:
    """The picture."""
    y = _TOP
    drawn = []
    for news, message in messages():
        lines = wrap(message, _COLUMNS, break_on_hyphens=False)
        drawn.append(f'<g id="{news.kind}">')
        for line in lines:
            drawn.append(f'<text x="{_LEFT}" y="{y}" fill="#dbdee1">{_spans(line)}</text>')
            y += _LINE
        drawn.append("</g>")
        y += _GAP
    head = _HEAD.format(width=_WIDTH, height=y, left=_LEFT)
    return head + "\n".join(drawn) + "\n</svg>\n"


def _spans(line: str) -> str:
    """A line in Discord's markdown; the default texts have only bold parts and links in it."""
    parts = []
    for bold, link, plain in re.findall(r"\*\*((?:\\.|[^\\*])+)\*\*|<([^>]+)>|((?:\\.|[^\\*<])+)", line):
        text = escape(re.sub(r"\\(.)", r"\1", bold or link or plain))
        style = _BOLD if bold else _LINK if link else ""
        parts.append(f"<tspan {style}>{text}</tspan>" if style else text)
    return "".join(parts)


if __name__ == "__main__":
    PICTURE.write_text(svg(), "utf-8")
