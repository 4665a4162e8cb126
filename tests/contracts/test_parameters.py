"""How parameters are read, the same on every route."""

import pytest

from tests.contracts.park import Park, is_refused
from tests.contracts.people import LARGEST, MAX_ID, TRAINEE
from tests.contracts.routes import CONNECT, LOG, PROFILE, ROUTES, Route, name

REQUIRED = [(route, parameter) for route in ROUTES for parameter in route.params]
IDS = [(route, parameter) for route, parameter in REQUIRED if parameter == "id"] + [(PROFILE, "discord")]
FLAGS = [(CONNECT, "training"), (LOG, "training")]


def only(route: Route, parameter: str, value: object) -> dict[str, object]:
    """The change that gives the parameter this value; /profile takes exactly one."""
    alone = dict.fromkeys(route.params) if route is PROFILE else {}
    return {**alone, parameter: value}


@pytest.mark.parametrize(("route", "parameter"), REQUIRED, ids=name)
async def test_an_absent_parameter_is_400_and_named(park: Park, route: Route, parameter: str) -> None:
    is_refused(await route.call(park, {parameter: None}), 400, "invalid query: ", parameter)


@pytest.mark.parametrize(("route", "parameter"), REQUIRED, ids=name)
async def test_an_empty_parameter_counts_as_absent(park: Park, route: Route, parameter: str) -> None:
    empty, absent = await route.call(park, {parameter: ""}), await route.call(park, {parameter: None})
    assert (empty.status_code, empty.text) == (absent.status_code, absent.text)


async def test_an_empty_optional_parameter_counts_as_absent(park: Park) -> None:
    one = park.person()
    assert (await park.profile(id=one.id, username="", discord="")).status_code == 200
    assert (await park.log(one.id, ended_at="", now="")).status_code == 200


@pytest.mark.parametrize(("route", "parameter"), [*REQUIRED, (LOG, "ended_at"), (LOG, "now")], ids=name)
async def test_a_repeated_parameter_is_400_and_named(park: Park, route: Route, parameter: str) -> None:
    value = route.params.get(parameter, 1_700_000_000)
    params = [*((key, text) for key, text in route.params.items() if key != parameter)]
    params += [(parameter, value), (parameter, value)]
    headers = {"Roblox-Id": "1001"} if route.is_roblox_only else {}
    response = await park.call(
        route.method, route.path, params, key=park.keys[route.scopes[0]], headers=headers, **route.body
    )
    is_refused(response, 400, "invalid query: ", parameter)


async def test_an_unknown_parameter_is_ignored_however_often_it_comes(park: Park) -> None:
    params = [("id", 1), ("colour", "red"), ("colour", "blue"), ("__proto__", "x"), ("id[$ne]", "2")]
    response = await park.call("GET", "/profile", params, key=park.keys["operator"])
    assert response.json()["id"] == 1


async def test_the_name_of_a_parameter_is_read_in_its_own_case(park: Park) -> None:
    is_refused(await PROFILE.call(park, {"id": None, "ID": 1}), 400, "invalid query: ")


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        " 1",
        "1 ",
        "1_000",
        "1,000",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "\N{FULLWIDTH DIGIT ONE}",
        "\N{SUPERSCRIPT TWO}",
        "true",
        "Roblox",
        "null",
        "NaN",
        "inf",
        "1\n",
        "1\x00",
        '{"$ne":""}',
        str(2**63),
        str(2**64 + 1),
        "9" * 400,
    ],
    ids=ascii,
)
@pytest.mark.parametrize(("route", "parameter"), IDS, ids=name)
async def test_an_id_is_a_whole_positive_64_bit_decimal(
    park: Park, route: Route, parameter: str, value: str
) -> None:
    is_refused(await route.call(park, only(route, parameter, value)), 400, "invalid query: ", parameter)


async def test_the_largest_id_survives_every_hop(park: Park) -> None:
    expected = LARGEST.profile(account=await park.account(MAX_ID))
    assert (await park.profile(id=MAX_ID)).text == expected
    assert (await park.profile(discord=MAX_ID)).text == expected
    assert (await park.profile(username=LARGEST.username)).text == expected
    assert (
        await park.connect(MAX_ID, place=MAX_ID)
    ).text == '{"certifications":"","auth":true,"clearance":0}'
    assert (await park.grant(LARGEST.username)).status_code == 200
    await park.wait_for_certifications(MAX_ID, "tot")
    assert (await park.log(MAX_ID, 120, place=1002)).status_code == 200
    assert (await park.log(MAX_ID, 60, place=MAX_ID, ago=1000)).status_code == 200
    await park.has_points(MAX_ID, 3)
    is_refused(await park.approve(MAX_ID), 400, "user is already trainee/cast")
    assert (await park.upload(MAX_ID, json=dict.fromkeys(("q1", "q2", "q3", "q4"), "a"))).status_code == 200


@pytest.mark.parametrize("value", ["true", "TRUE", "True", "tRuE", "1"])
@pytest.mark.parametrize(("route", "parameter"), FLAGS, ids=name)
async def test_true_is_read_in_any_case(park: Park, route: Route, parameter: str, value: str) -> None:
    response = await route.call(park, {parameter: value, "id": park.person(TRAINEE).id})
    assert response.status_code == 200
    assert route is LOG or response.json()["certifications"] != ""


@pytest.mark.parametrize("value", ["false", "FALSE", "False", "fAlSe", "0"])
@pytest.mark.parametrize(("route", "parameter"), FLAGS, ids=name)
async def test_false_is_read_in_any_case(park: Park, route: Route, parameter: str, value: str) -> None:
    response = await route.call(park, {parameter: value, "id": park.person(TRAINEE).id})
    assert response.status_code == 200
    assert route is LOG or response.json()["certifications"] == ""


@pytest.mark.parametrize(
    "value",
    ["yes", "no", "t", "f", "2", "-1", "01", "1.0", "on", "null", " true", "\N{FULLWIDTH DIGIT ONE}"],
    ids=ascii,
)
@pytest.mark.parametrize(("route", "parameter"), FLAGS, ids=name)
async def test_nothing_else_is_a_boolean(park: Park, route: Route, parameter: str, value: str) -> None:
    is_refused(await route.call(park, {parameter: value}), 400, "invalid query: ", parameter)


@pytest.mark.parametrize(
    "value",
    ["-1", "+60", "1e2", " 60", "60s", "6 0", ".", "1.2.3", "inf", "nan", "٦", "0x10", "60.5.", "1,5"],
    ids=ascii,
)
@pytest.mark.parametrize("parameter", ["duration", "ended_at", "now"])
async def test_seconds_are_decimal_text(park: Park, parameter: str, value: str) -> None:
    is_refused(await LOG.call(park, {parameter: value}), 400, "invalid query: ", parameter)


async def test_no_parameter_is_read_from_a_body(park: Park) -> None:
    person = park.person()
    params = {"certification": "tot", "username": person.username, "moderator": "400000000000000004"}
    for body in ({"json": params}, {"data": params}):
        response = await park.call("POST", "/certification/grant", key=park.keys["discord"], **body)
        is_refused(response, 400, "invalid query: ")
