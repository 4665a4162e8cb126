"""Short texts that people type: cleaned when they come in, and escaped when they are shown in Discord."""

import re
import unicodedata

_JOINERS = re.compile("[\u200c\u200d]+")
_VIRAMA = 9
_REFUSED = ("Cc", "Cs", "Zl", "Zp")
# Control, format, surrogate and private-use characters. Not Cn: emoji newer than this Python are among those.
_INVISIBLE = ("Cc", "Cf", "Cs", "Co")
# Shown as nothing, or as a gap, though Unicode counts them among letters, marks and symbols.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
)
_EMOJI_STYLE = "\ufe0e\ufe0f"
_ACTIVE = re.compile(r"[!-/:-?\[-`{-~]")  # every ASCII character but letters, digits, space, control and @
_NOTHING = "?"


def clean(text: str) -> str | None:
    """A short text without what cannot be seen in it; None where it is more than one line, or no text.

    Pasted names carry zero-width spaces, soft hyphens, byte order marks and marks of direction: these are
    removed, and a no-break space is a space. What `str.isprintable` accepts stays as it is, so that names which were
    stored before still compare equal. Joiners stay where emoji of several and some scripts need them: between two
    characters that are not ASCII, and after a virama.
    """
    text = text.strip()
    if text.isprintable():
        return text
    kept = "".join(
        " " if unicodedata.category(character) == "Zs" else character
        for character in text
        if unicodedata.category(character) != "Cf" or _JOINERS.match(character)
    )
    kept = _without_stray_joiners(kept).strip()
    return None if any(unicodedata.category(character) in _REFUSED for character in kept) else kept


def visible(text: str) -> str:
    """What can be seen of a text from anywhere, on one line."""
    shown = ""
    for character in _BLANK.sub("", text):
        if character.isspace():
            shown += " "
        elif character in _EMOJI_STYLE:
            shown += character if shown and not shown[-1].isspace() else ""
        elif unicodedata.category(character) not in _INVISIBLE or _JOINERS.match(character):
            shown += character
    return " ".join(_without_stray_joiners(shown).split())


def escape_for_discord(text: str) -> str:
    """A text from anywhere as Discord shows it: it formats, links and mentions nothing.

    Discord takes a backslash before any character that is no letter, digit or space as "this one as it is", so each
    such ASCII character gets one; nothing that Discord reads otherwise (its markdown, mentions, links, times,
    emoji) is without them: https://docs.discord.com/developers/reference#message-formatting
    Who is mentioned is found before backslashes are read, and `\\@everyone` would mention everyone: a zero-width
    space after the @ prevents it.
    """
    return _ACTIVE.sub(r"\\\g<0>", visible(text) or _NOTHING).replace("@", "@\u200b")


def _without_stray_joiners(text: str) -> str:
    def kept(found: re.Match[str]) -> str:
        before, after = text[: found.start()][-1:], text[found.end() :][:1]
        is_between = all(one and not one.isascii() and not one.isspace() for one in (before, after))
        return found[0][0] if is_between or unicodedata.combining(before or " ") == _VIRAMA else ""

    return _JOINERS.sub(kept, text)
