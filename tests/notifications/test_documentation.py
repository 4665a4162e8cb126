"""The page of plugins shows the texts that there are, and the picture what they come to."""

import importlib.util
import re
from types import ModuleType
from xml.etree import ElementTree

import pytest

from notifications.models import KINDS
from notifications.plugins.discord import DiscordOptions
from tests.support import ROOT
from tests.support.discord import read

FOLDER = ROOT / "docs/pictures"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """What draws the picture."""
    found = importlib.util.spec_from_file_location("discord_messages", FOLDER / "discord_messages.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_text_is_documented_with_its_fields_and_default() -> None:
    page = (ROOT / "docs/plugins.md").read_text("utf-8")
    for kind, fields in KINDS.items():
        names = ", ".join(f"`{name}`" for name in fields)
        row = f"| `{kind}` | {names} | `{DiscordOptions.model_fields[kind].default}` |"
        assert row in page, f"docs/plugins.md: expected this row:\n{row}"


def test_the_picture_is_drawn_from_the_default_texts(script: ModuleType) -> None:
    assert script.PICTURE.read_text("utf-8") == script.svg(), f"run {FOLDER / 'discord_messages.py'}"
    assert [news.kind for news, _ in script.messages()] == list(KINDS)


def test_the_picture_shows_each_message_as_discord_does(script: ModuleType) -> None:
    picture = ElementTree.parse(script.PICTURE)  # noqa: S314 - our own
    space = {"svg": "http://www.w3.org/2000/svg"}
    for news, message in script.messages():
        group = picture.find(f".//svg:g[@id='{news.kind}']", space)
        assert group is not None
        shown = " ".join("".join(line.itertext()) for line in group)
        assert shown == re.sub(r"\*\*|[<>]", "", read(message)[0])
