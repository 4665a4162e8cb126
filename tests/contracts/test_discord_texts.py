"""What is fit to show in Discord formats, links and mentions nothing, whatever names and callers hold."""

import json
from collections import Counter

import pytest

from tests.contracts.park import Park
from tests.contracts.people import TRAINEE, Person
from tests.contracts.routes import ROUTES, Route, name
from tests.support import unique_id
from tests.support.discord import read

NASTY = (
    "@everyone",
    "@here",
    "<@400000000000000004>",
    "<@&400000000000000004>",
    "<#400000000000000004>",
    "<:smile:400000000000000004>",
    "<t:1618953630:R>",
    "**a** *b* _c_ __d__ ~~e~~ ||f|| `g`",
    "[a](https://evil.example)",
    "https://evil.example/x",
    "discord.gg/x",
    "# a",
    "```a```",
    "\\",
)
PARAMETERS = [(route, parameter) for route in ROUTES for parameter in (*route.params, *route.optional)]


def is_text_alone(shown: str) -> bool:
    """Whether only our own bold parts are more than text."""
    return not Counter(read(shown)[1]) - Counter({"**": 4, "*": 4})


@pytest.mark.parametrize(("route", "parameter"), PARAMETERS, ids=name)
async def test_what_a_caller_typed_does_nothing(park: Park, route: Route, parameter: str) -> None:
    for typed in NASTY:
        response = await route.call(park, {parameter: typed})
        assert is_text_alone(response.json().get("discord", "")), response.text


@pytest.mark.parametrize("nasty", NASTY)
async def test_a_name_does_nothing_and_is_shown_as_it_is(park: Park, nasty: str) -> None:
    number = unique_id()
    person = Person(number, f"{nasty[:30]} {number}", unique_id(), TRAINEE)
    await park.admit([person])
    for change in (park.grant, park.grant, park.revoke, park.revoke):
        response = await change(person.username)
        text = json.loads(response.text)["discord"]
        assert is_text_alone(text), text
        assert f"**{person.username}**" in read(text)[0]


async def test_a_name_with_an_underscore_is_shown_with_it(park: Park) -> None:
    number = unique_id()
    await park.admit([Person(number, f"Park_Cast{number}", unique_id(), TRAINEE)])
    text = (await park.grant(f"Park_Cast{number}")).json()["discord"]
    assert text == rf"Successfully granted **Park\_Cast{number}** the **tot** certification."


@pytest.mark.parametrize(
    "name",
    [
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u0d28\u0d4d\u200d",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    ],
    ids=ascii,
)
async def test_a_name_with_joiners_is_found_and_shown(park: Park, name: str) -> None:
    person = Person(unique_id(), name, unique_id(), TRAINEE)
    await park.admit([person])
    assert (await park.profile(username=name)).json()["username"] == name
    text = (await park.grant(name)).json()["discord"]
    assert text == f"Successfully granted **{name}** the **tot** certification."


@pytest.mark.parametrize(
    "typed", ["\u200b{}", "{}\ufeff", "\u2068{}\u2069", "\u00a0{}\u00a0", "{}\u00ad"], ids=ascii
)
async def test_a_name_or_a_code_pasted_with_what_cannot_be_seen_is_found(park: Park, typed: str) -> None:
    person = park.person(TRAINEE)
    found = await park.profile(username=typed.format(person.username))
    assert found.json()["username"] == person.username
    response = await park.grant(typed.format(person.username), typed.format("tot"))
    assert response.status_code == 200
    await park.wait_for_certifications(person.id, "tot")
