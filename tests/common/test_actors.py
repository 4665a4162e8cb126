"""Who decided, as callers name them."""

import pytest

from common.actors import Moderator
from common.errors import InvalidQuery
from common.query import Query, validate


class Act(Query):
    """An act of a moderator."""

    moderator: Moderator


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("400000000000000004", "discord:400000000000000004"),
        ("roblox:4", "roblox:4"),
        ("0042", "discord:42"),
        ("roblox:0042", "roblox:42"),
        (42, "discord:42"),
    ],
)
def test_a_moderator_is_a_discord_id_or_a_roblox_id(given: object, meant: str) -> None:
    assert validate(Act, {"moderator": given}).moderator == meant


@pytest.mark.parametrize(
    "given",
    [
        "ParkManager",
        "0",
        "roblox:",
        "roblox:0",
        "roblox:x",
        "discord:4",
        "Roblox:4",
        "4 ",
        "-4",
        "4.0",
        "٤",
        "9223372036854775808",
        "roblox:9223372036854775808",
        "1" * 20,
    ],
)
def test_any_other_moderator_is_refused(given: str) -> None:
    with pytest.raises(InvalidQuery, match="moderator must be a Discord id, or roblox: and a Roblox id"):
        validate(Act, {"moderator": given})
