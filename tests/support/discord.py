"""How Discord's clients read a text, and what people type who try to make more than text of it."""

import re

from hypothesis import strategies as st

NASTY = st.sampled_from(
    [
        *"*_~`|<>@#:/\\[](){}!-+.=&;$^%'\"1a \n\t\r\x00",
        "@everyone",
        "@here",
        "<@1234567890123456>",
        "<@&1234567890123456>",
        "<#1234567890123456>",
        "<t:1618953630:R>",
        "<:name:1234567890123456>",
        "<a:name:1234567890123456>",
        "</name:1234567890123456>",
        "<id:customize>",
        ":smile:",
        "https://evil.example/x",
        "discord.gg/x",
        "[text](https://evil.example)",
        "```py\n",
        "||",
        "**",
        "\n# ",
        "\n> ",
        "\n-# ",
        "\n1. ",
        "\u200b",
        "\u200d",
        "\u2028",
        "\u202e",
        "\u3164",
        "\ufe0f",
        "\ufeff",
        "\U000e0041",
        "e\u0301",
        "é",
        "漢",
        "שלום",
        "سلام",
        "٣",
        "🎢",
    ]
)
# What Discord's clients read as more than text, as their documents and published grammars tell it.
ACTIVE = re.compile(
    r"""
      \*\*? | __? | ~~ | ` | \|\|                       # bold, italics, strike-through, code, spoiler
    | ^(\#{1,3}|-\#|>{1,3}|[-*+]|\d+[.)])\s             # heading, small, quote, list
    | <(@[!&]?|\#|t:|a?:|/|id:|[a-z]+://|[^\s>]+@)      # mention, channel, time, emoji, command, link, mail
    | [a-z]+://\S                                       # a bare link
    | \bdiscord(app)?\.(gg|com)/                        # an invitation
    | \[[^\]]*\]\(                                      # a link with a text
    | :\w+:                                             # an emoji
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)


# Discord looks for these before it reads backslashes, and leaves out marks that turn the direction.
MENTIONS = re.compile("@[\u200e\u200f\u202a-\u202e\u2066-\u2069]*(everyone|here)", re.IGNORECASE)


def read(text: str) -> tuple[str, list[str]]:
    """What is shown of a text in Discord's markdown, and what in it is more than text."""
    shown, found, at = "", [mention[0] for mention in MENTIONS.finditer(text)], 0
    while at < len(text):
        if escaped := re.compile(r"\\([^0-9A-Za-z\s])").match(text, at):
            shown, at = shown + escaped[1], escaped.end()
        elif text.startswith("@\u200b", at):
            shown, at = shown + "@", at + 2
        else:
            if active := ACTIVE.match(text, at):
                found.append(active[0])
            shown, at = shown + text[at], at + 1
    return shown, found
