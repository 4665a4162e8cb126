"""Whatever stands in a value, Discord shows it as it is; whatever a text asks for, a message is never too long."""

import re
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # which rich, and so `callboard`, shows markdown with

from common.errors import InvalidEvent
from notifications.models import KINDS
from notifications.plugins.discord import DiscordOptions
from notifications.plugins.discord_text import LONGEST_SHOWN, check_text, length, link, plain, render
from tests.support.discord import NASTY, read

VALUES = st.one_of(st.text(max_size=200), st.lists(NASTY, max_size=80).map("".join))


def visible(value: str) -> str:
    """The characters of a value that can be seen, without gaps."""
    return "".join(
        one for one in unicodedata.normalize("NFC", value) if one.isprintable() and not one.isspace()
    )


def test_what_this_reads_as_active_is_what_discord_does() -> None:
    for text in (
        *("**a**", "_a_", "~~a~~", "`a`", "||a||", "# a", "> a", "- a", "1. a", "-# a"),
        *(
            "<@1>",
            "<@!1>",
            "<@&1>",
            "<#1>",
            "<t:1>",
            "<:a:1>",
            "<a:a:1>",
            "</a:1>",
            "<id:browse>",
            "<https://a>",
        ),
        *("@everyone", "@here", "https://a.b", "discord.gg/a", "[a](b)", ":a:"),
    ):
        assert read(text)[1], text
    assert read(r"\@everyone")[1] == ["@everyone"]
    assert read("\\*\\*a\\*\\* @\u200beveryone a\\_b https\\:\\/\\/a") == (
        "**a** @everyone a_b https://a",
        [],
    )


@given(VALUES)
def test_a_value_is_shown_as_it_is_and_does_nothing(value: str) -> None:
    text = plain(value)
    shown, active = read(text)
    assert not active
    bare = shown.removeprefix("\u2068").removesuffix("\u2069")
    assert visible(value).startswith(visible(bare.removesuffix("…"))) or bare == "?" or _has_blanks(value)
    assert bare and bare.strip() == bare
    assert not any(
        unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        for one in re.sub("[\u200c\u200d]", "", bare)
    )
    assert length(text) <= LONGEST_SHOWN


def _has_blanks(value: str) -> bool:
    return any(unicodedata.category(one)[0] in "MLS" and not plain(one).strip("\\?") for one in value)


@given(VALUES)
def test_another_reader_of_markdown_sees_nothing_but_text_either(value: str) -> None:
    text = plain(value)
    tokens = MarkdownIt("commonmark").enable("strikethrough").enable("table").parse(text)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    (inline,) = [token for token in tokens if token.children is not None]
    assert {token.type for token in inline.children or ()} == {"text"}
    assert "".join(token.content for token in inline.children or ()).replace("@\u200b", "@") == read(text)[0]


@given(VALUES)
def test_a_value_cannot_break_out_of_the_format_around_it(value: str) -> None:
    shown, _ = read(plain(value))
    (_, inline, _) = MarkdownIt("commonmark").parse(f"**{plain(value)}** x")
    assert [token.type for token in inline.children or ()] in (
        ["text", "strong_open", "text", "strong_close", "text"],
        ["strong_open", "text", "strong_close", "text"],
        # CommonMark, unlike Discord, opens nothing before a space or a sign; then all of it is text.
        ["text"],
    )
    assert shown in "".join(token.content for token in inline.children or ()).replace("@\u200b", "@")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Roblox", "Roblox"),
        ("Player_1", r"Player\_1"),
        ("@everyone", "@\u200beveryone"),
        ("@\u200beveryone", "@\u200beveryone"),
        ("<@123>", "\\<@\u200b123\\>"),
        ("a\nb\r\n\tc", "a b c"),
        ("\u202eevil\u202c", "evil"),
        ("\u200b\u3164\u2800 ", r"\?"),
        ("", r"\?"),
        ("\\", "\\\\"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 63 + "…"),
        ("🎢" * 32, "🎢" * 32),
        ("🎢" * 33, "🎢" * 31 + "…"),
        ("x" * 62 + "q\u0302\u0323" * 2, "x" * 62 + "…"),
    ],
)
def test_a_value_is_shown_in_one_line_and_cut_between_characters(value: str, shown: str) -> None:
    assert plain(value) == shown


@pytest.mark.parametrize("name", ["שלום", "evil شر", "٣", "*שלום*" * 40])
def test_a_name_from_right_to_left_turns_nothing_around_it(name: str) -> None:
    text = plain(name)
    assert (text[0], text[-1]) == ("\u2068", "\u2069")
    assert length(text) <= LONGEST_SHOWN


@given(st.text(max_size=400))
def test_a_link_is_a_link_whole_and_nothing_else(path: str) -> None:
    url = f"https://park.example/{path}"
    try:
        text = link(url)
    except InvalidEvent:
        assume(False)
    assert re.fullmatch(r"<https://park\.example/[!-;=?-~]*>", text)  # no space, < or > in it
    assert not re.search(r"[()`*\\]", text.replace("*", "") if "*" in path else text)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "park.example/x", "", "https://a/" + "x" * 500])
def test_what_cannot_be_a_link_is_never_sent(url: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        link(url)
    assert not url or url not in str(caught.value)


PARTS = st.one_of(
    st.sampled_from([f"{{{name}}}" for name in KINDS["application_submitted"]]),
    st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=300),
    st.sampled_from(["{{", "}}"]),
)


@given(st.lists(PARTS, max_size=12).map("".join), VALUES, VALUES)
def test_a_text_that_is_accepted_is_never_too_long(text: str, name: str, other: str) -> None:
    try:
        check_text(text, KINDS["application_submitted"])
    except ValueError:
        assume(False)
    url = "https://park.example/applications/" + "x" * 400
    rendered = render(text, {"username": name, "id": other, "url": url, "copy_url": url})
    assert length(rendered) <= 2000
    assert rendered.count(f"<{url}>") == text.count("{url}") + text.count("{copy_url}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{nobody}", r"unknown field \{nobody\}; there are: \{username\}, \{id\}, \{url\}"),
        ("{username.__class__}", "unknown field"),
        ("{username[0]}", "unknown field"),
        ("{username!r}", "unknown field"),
        ("{username:>100000}", "unknown field"),
        ("{username:{id}}", "unknown field"),
        ("{}", "unknown field"),
        ("{0}", "unknown field"),
        ("{username", "expected fields such as"),
        ("username}", "expected fields such as"),
        ("`{username}`", r"\{username\} stands in code \(`\)"),
        ("`x` `{id}`", "stands in code"),
        ("```\n{id}\n```", "stands in code"),
        ("{username} " * 16, "too long"),
        ("x" * 2001, "too long"),
        ("🎢" * 1001, "too long"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_text(text, KINDS["application_submitted"])


def test_braces_that_stay_and_text_without_fields_are_fine() -> None:
    check_text("{{x}} y", ())
    check_text("`new` {id} `x`", ("id",))
    assert render("{{x}} {id}", {"id": "1"}) == "{x} 1"


def test_there_is_a_text_for_every_kind() -> None:
    assert set(DiscordOptions.model_fields) == set(KINDS)
