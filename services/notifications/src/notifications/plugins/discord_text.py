"""Texts with fields, and values that Discord shows as they are, whatever stands in them."""

import re
import unicodedata
from collections.abc import Collection, Mapping
from datetime import datetime
from string import Formatter
from urllib.parse import quote

from common.errors import InvalidEvent
from common.text import escape_for_discord, visible

LONGEST_MESSAGE = 2000
"""Of Discord: https://docs.discord.com/developers/resources/webhook#execute-webhook"""

LONGEST_VALUE = 64
"""A longer value is cut."""

LONGEST_SHOWN = 2 * LONGEST_VALUE + 2
"""A value with all that is put around it and into it."""

LONGEST_LINK = 500

LINKS = ("url", "copy_url")
"""The fields that are links, and never cut."""

MODERATOR = "moderator"
"""The field that may be an account."""

_ACCOUNT = re.compile(r"(discord|roblox):([0-9]{1,19})", re.ASCII)
_FROM_RIGHT_TO_LEFT = ("R", "AL", "AN")
_FIRST_STRONG_ISOLATE, _POP_DIRECTIONAL_ISOLATE = "\u2068", "\u2069"


def length(text: str) -> int:
    """The characters of a text, in the count that is highest: Discord does not say which one it uses."""
    return len(text.encode("utf-16-le")) // 2


def check_text(text: str, fields: Collection[str]) -> None:
    """Raises ValueError that says what is wrong with a text that may name these fields."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        raise ValueError("expected fields such as {username}, and {{ or }} for a brace that stays") from None
    longest = ticks = 0
    for literal, field, form, conversion in parts:
        longest += length(literal)
        ticks += literal.count("`")
        if field is not None:
            if field not in fields or form or conversion:
                known = ", ".join(f"{{{name}}}" for name in fields)
                raise ValueError(f"unknown field {{{field}}}; there are: {known}")
            if ticks % 2:
                raise ValueError(f"{{{field}}} stands in code (`), where a value is not shown as it is")
            longest += LONGEST_LINK if field in LINKS else LONGEST_SHOWN
    if longest > LONGEST_MESSAGE:
        raise ValueError(
            f"too long: with its fields, it could take {longest} of {LONGEST_MESSAGE} characters"
        )


def render(text: str, fields: Mapping[str, str]) -> str:
    """A text that was checked, with its fields' values. Raises InvalidEvent for a link that cannot be one."""
    shown = {**dict.fromkeys(LINKS, link), MODERATOR: person}
    return text.format_map({name: shown.get(name, plain)(value) for name, value in fields.items()})


def plain(value: str) -> str:
    """A value as Discord shows it unchanged: on one line, without what is invisible, cut if it is long.

    What is written from right to left turns nothing around it.
    """
    text = escape_for_discord(_cut(visible(unicodedata.normalize("NFC", value))))
    if any(unicodedata.bidirectional(character) in _FROM_RIGHT_TO_LEFT for character in text):
        return f"{_FIRST_STRONG_ISOLATE}{text}{_POP_DIRECTIONAL_ISOLATE}"
    return text


def person(value: str) -> str:
    """Who decided. Discord shows the name of one of its accounts, and tells them nothing unless the message says so."""
    found = _ACCOUNT.fullmatch(value)
    if found is None:
        return plain(value)
    return f"<@{found[2]}>" if found[1] == "discord" else f"Roblox user {found[2]}"


def link(url: str) -> str:
    """A link of which Discord shows no preview. Raises InvalidEvent."""
    safe = quote(url, safe="%:/?#[]@!$&'*+,;=-._~")
    shown = f"<{safe}>"
    if not safe.startswith(("https://", "http://")) or len(shown) > LONGEST_LINK:
        raise InvalidEvent(f"expected a link of at most {LONGEST_LINK} characters")
    return shown


def moment(at: datetime) -> str:
    """A time of day, which Discord shows by the reader's clock."""
    return f"<t:{int(at.timestamp())}:T>"


def _cut(value: str) -> str:
    if length(value) <= LONGEST_VALUE:
        return value
    cut_off = ""
    while value and (length(value) >= LONGEST_VALUE or unicodedata.combining(cut_off)):
        value, cut_off = value[:-1], value[-1]
    return f"{value}…"
