"""Names are cleaned of what cannot be seen in them, and shown in Discord as they are."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.text import clean, escape_for_discord, visible
from tests.support.discord import NASTY, read

TEXTS = st.one_of(st.text(max_size=60), st.lists(NASTY, max_size=30).map("".join))
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
MALAYALAM = "\u0d28\u0d4d\u200d"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
HEART_ON_FIRE = "\u2764\ufe0f\u200d\U0001f525"
NEWER_THAN_UNICODE_15 = "\U0001fae9"


@pytest.mark.parametrize(
    "text",
    [
        "Park_Cast",
        "Zo\u00e9",
        "A  B",
        FAMILY,
        MALAYALAM,
        PERSIAN,
        HEART_ON_FIRE,
        NEWER_THAN_UNICODE_15,
        "\u3164",
    ],
    ids=ascii,
)
def test_a_name_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (" Roblox\r\n", "Roblox"),
        ("\u200bRoblox\ufeff", "Roblox"),
        ("Rob\u200blox", "Roblox"),
        ("Rob\u00adlox", "Roblox"),
        ("Rob\u200dlox", "Roblox"),
        ("\u202aRoblox\u202c", "Roblox"),
        ("\u2068Roblox\u2069", "Roblox"),
        ("\u00a0Park\u00a0Cast\u00a0", "Park Cast"),
        (f"\u200d{FAMILY}\u200d", FAMILY),
        (f"{FAMILY}\u200d\u200d{FAMILY}", f"{FAMILY}\u200d{FAMILY}"),
        ("Roblox\n\u200b", "Roblox"),
        ("\u200b", ""),
    ],
    ids=ascii,
)
def test_what_cannot_be_seen_in_a_pasted_name_is_left_out(typed: str, name: str) -> None:
    assert clean(typed) == name


@pytest.mark.parametrize(
    "text", ["a\nb", "a\u2028b", "a\tb", "a\x00b", "a\x1b[1mb", "\ud800", "a\x85b"], ids=ascii
)
def test_more_than_one_line_and_control_characters_are_no_name(text: str) -> None:
    assert clean(text) is None


@given(TEXTS)
def test_what_is_cleaned_is_clean(text: str) -> None:
    once = clean(text)
    assert once is None or clean(once) == once


@given(TEXTS)
def test_names_that_are_stored_already_compare_as_before(text: str) -> None:
    if text.isprintable():
        assert clean(text) == text.strip()


@given(TEXTS)
def test_what_is_shown_in_discord_formats_links_and_mentions_nothing(text: str) -> None:
    shown, active = read(f"**{escape_for_discord(text)}** has it.")
    assert active == ["**", "*", "**", "*"]
    assert shown == f"**{visible(text) or '?'}** has it."
    assert not any(unicodedata.category(one) in ("Cc", "Zl", "Zp", "Co", "Cs") for one in shown)


@given(
    st.text("abcXYZ09 \u00e9\u6f22", min_size=1).map(str.strip).filter(lambda name: name and "  " not in name)
)
def test_a_name_without_special_characters_is_shown_to_the_character(name: str) -> None:
    assert escape_for_discord(name) == name


@pytest.mark.parametrize(
    "name", [FAMILY, MALAYALAM, PERSIAN, HEART_ON_FIRE, NEWER_THAN_UNICODE_15], ids=ascii
)
def test_a_name_in_any_script_is_shown_to_the_character(name: str) -> None:
    assert escape_for_discord(name) == name


def test_an_underscore_shows_and_a_mention_is_broken() -> None:
    assert escape_for_discord("Park_Cast") == r"Park\_Cast"
    assert escape_for_discord("@everyone") == "@\u200beveryone"
    assert escape_for_discord("<@123>") == "\\<@\u200b123\\>"
    assert escape_for_discord("\u200b\u3164 ") == r"\?"
    assert not re.search("@(everyone|here)", escape_for_discord("@\u202eeveryone @\ufe0fhere"))
