"""Who may call: keys, scopes, Roblox-only routes, and in which order a request is judged."""

import asyncio

import pytest

from tests.contracts.park import ACCESS_DENIED, INVALID_KEY, NOT_FOUND, Park, is_refused
from tests.contracts.people import GUEST
from tests.contracts.routes import CONNECT, LOG, PROFILE, ROUTES, SCOPES, UPLOAD, Route, name
from tests.support import wait_until

ROBLOX_ONLY = (CONNECT, LOG)


@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_a_request_without_a_key_is_401(park: Park, route: Route) -> None:
    response = await route.call(park, key=None)
    assert (response.status_code, response.text) == (401, INVALID_KEY)


@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_an_unknown_key_is_401(park: Park, route: Route) -> None:
    for wrong in (
        "nonsense",
        park.keys["operator"][:-1],
        park.keys["operator"] + "x",
        park.keys["roblox"].upper(),
    ):
        response = await route.call(park, key=wrong)
        assert (response.status_code, response.text) == (401, INVALID_KEY)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_only_the_scopes_of_a_route_may_call_it(park: Park, route: Route, scope: str) -> None:
    response = await route.call(park, {next(iter(route.params)): None}, key=park.keys[scope])
    if scope in route.scopes:
        is_refused(response, 400, "invalid query")
    else:
        assert (response.status_code, response.text) == (403, ACCESS_DENIED)


@pytest.mark.parametrize("scope", SCOPES)
async def test_any_key_may_read_a_profile_and_upload_an_application(park: Park, scope: str) -> None:
    assert (await PROFILE.call(park, key=park.keys[scope])).status_code == 200
    assert (await UPLOAD.call(park, key=park.keys[scope])).status_code == 200


async def test_a_key_may_come_in_three_places(park: Park) -> None:
    key = park.keys["discord"]
    for params, headers in (
        ({"key": key}, {}),
        ({}, {"x-api-key": key}),
        ({}, {"Authorization": f"Bearer {key}"}),
        ({"key": key}, {"x-api-key": key, "Authorization": f"Bearer {key}"}),
        ({"key": ""}, {"x-api-key": key}),
    ):
        response = await park.call("GET", "/profile", {"id": 1, **params}, headers=headers)
        assert response.status_code == 200, (list(params), list(headers))


async def test_two_keys_that_differ_are_401(park: Park) -> None:
    one, other = park.keys["discord"], park.keys["operator"]
    for params, headers in (
        ({"key": one}, {"x-api-key": other}),
        ({"key": one}, {"Authorization": f"Bearer {other}"}),
        ({}, {"x-api-key": one, "Authorization": f"Bearer {other}"}),
        ({"key": "nonsense"}, {"x-api-key": one}),
    ):
        response = await park.call("GET", "/profile", {"id": 1, **params}, headers=headers)
        assert (response.status_code, response.text) == (401, INVALID_KEY), (list(params), list(headers))


async def test_two_different_keys_in_the_query_are_401(park: Park) -> None:
    params = [("id", 1), ("key", park.keys["discord"]), ("key", park.keys["operator"])]
    response = await park.call("GET", "/profile", params)
    assert (response.status_code, response.text) == (401, INVALID_KEY)


@pytest.mark.parametrize("route", ROBLOX_ONLY, ids=name)
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "1002",
        "01002",
        "1001.0",
        "0x3e9",
        "1001,1001",
        "-1001",
        "place",
        "\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT ZERO}\N{ARABIC-INDIC DIGIT ZERO}\N{ARABIC-INDIC DIGIT ONE}",
    ],
    ids=ascii,
)
async def test_a_roblox_only_route_asks_for_the_places_own_number_as_roblox_id(
    park: Park, route: Route, header: str | None
) -> None:
    headers = {} if header is None else {"Roblox-Id": header.encode()}
    response = await route.call(park, headers=headers)
    assert (response.status_code, response.text) == (403, ACCESS_DENIED)


@pytest.mark.parametrize("route", ROBLOX_ONLY, ids=name)
async def test_a_roblox_only_route_asks_for_a_roblox_key_even_from_roblox(park: Park, route: Route) -> None:
    for scope in ("discord", "operator"):
        response = await route.call(park, key=park.keys[scope])
        assert (response.status_code, response.text) == (403, ACCESS_DENIED)


@pytest.mark.parametrize("route", ROBLOX_ONLY, ids=name)
@pytest.mark.parametrize("place", [None, "", "x", "0", "-1001", "1001.0", "1e3", str(2**63)])
async def test_an_absent_or_malformed_place_is_a_parameter_error(
    park: Park, route: Route, place: str | None
) -> None:
    is_refused(await route.call(park, {"place": place}), 400, "invalid query: ", "place")


@pytest.mark.parametrize("route", ROBLOX_ONLY, ids=name)
async def test_two_places_cannot_talk_a_server_into_another_place(park: Park, route: Route) -> None:
    for places in (("1001", "1002"), ("1002", "1001"), ("1001", "1001")):
        params = [(key, value) for key, value in route.params.items() if key != "place"]
        params += [("place", place) for place in places]
        response = await park.call(
            route.method, route.path, params, key=park.keys["roblox"], headers={"Roblox-Id": "1001"}
        )
        is_refused(response, 400, "invalid query: ", "place")


async def test_a_key_for_some_places_opens_no_others(park: Park) -> None:
    player = park.person()
    key = await park.make_key("tower", "roblox", "--place", "1002", "--place", "1003")
    for place, status in ((1002, 200), (1003, 200), (1001, 403), (77, 403)):
        response = await park.connect(player.id, place, key=key)
        assert response.status_code == status
        assert status == 200 or response.text == ACCESS_DENIED


async def test_a_key_for_some_networks_is_denied_from_elsewhere(park: Park) -> None:
    player = park.person()
    away = await park.make_key("away", "roblox", "--network", "203.0.113.0/24")
    here = await park.make_key("here", "roblox", "--network", "203.0.113.0/24", "--network", park.network)
    response = await park.connect(player.id, key=away)
    assert (response.status_code, response.text) == (403, ACCESS_DENIED)
    assert (await park.connect(player.id, key=here)).status_code == 200


async def test_nobody_can_claim_to_come_from_another_network(park: Park) -> None:
    key = await park.make_key("claimed", "roblox", "--network", "203.0.113.7/32")
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP"):
        value = "for=203.0.113.7" if header == "Forwarded" else "203.0.113.7"
        response = await CONNECT.call(park, key=key, headers={"Roblox-Id": "1001", header: value})
        assert (response.status_code, response.text) == (403, ACCESS_DENIED)


async def test_a_revoked_key_is_401_from_then_on(park: Park) -> None:
    key = await park.make_key("leaving", "discord")
    await park.callboard("keys", "revoke", "leaving")
    await _is_gone(park, key)


async def test_an_expired_key_is_401(park: Park) -> None:
    key = await park.make_key("shortlived", "discord", "--expires", "12s")
    await _is_gone(park, key)


async def test_a_rotated_key_and_its_successor_both_work_during_the_overlap(park: Park) -> None:
    first = await park.make_key("rotating", "discord")
    second = await park.rotate_key("rotating", "--overlap", "1h")
    assert second != first
    for key in (first, second):
        assert (await PROFILE.call(park, key=key)).status_code == 200


async def test_a_rotated_key_is_401_when_the_overlap_is_over(park: Park) -> None:
    first = await park.make_key("rotating-fast", "discord")
    second = await park.rotate_key("rotating-fast", "--overlap", "1s")
    await _is_gone(park, first)
    assert (await PROFILE.call(park, key=second)).status_code == 200


async def test_a_key_that_is_used_too_often_gets_429_and_when_to_come_again(park: Park) -> None:
    key = await park.make_key("eager", "discord", "--rate", "5/min")
    responses = [await PROFILE.call(park, key=key) for _ in range(6)]
    is_refused(responses[-1], 429)
    assert 1 <= int(responses[-1].headers["Retry-After"]) <= 60
    assert (await PROFILE.call(park, key=park.keys["discord"])).status_code == 200


# --------------------------------------------------------------------------------------------- the order


async def test_404_comes_before_everything(park: Park) -> None:
    for method in ("GET", "POST", "DELETE"):
        response = await park.call(method, "/no/such/page", {"key": "nonsense"})
        assert (response.status_code, response.text) == (404, NOT_FOUND)


@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_405_comes_before_the_key(park: Park, route: Route) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {route.method}:
        response = await park.call(method, route.path, key="nonsense")
        is_refused(response, 405)
        assert response.headers["allow"] == route.method


@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_the_key_comes_before_the_parameters(park: Park, route: Route) -> None:
    response = await park.call(route.method, route.path, key="nonsense")
    assert (response.status_code, response.text) == (401, INVALID_KEY)


@pytest.mark.parametrize("route", ROBLOX_ONLY, ids=name)
async def test_the_scope_and_roblox_come_before_the_parameters(park: Park, route: Route) -> None:
    wrong = {"id": "nobody", "training": "perhaps"}
    for key, place in ((park.keys["operator"], "1001"), (park.keys["roblox"], "1002")):
        response = await route.call(park, wrong, key=key, headers={"Roblox-Id": place})
        assert (response.status_code, response.text) == (403, ACCESS_DENIED)


async def test_the_scope_comes_before_the_place(park: Park) -> None:
    response = await CONNECT.call(park, {"place": None}, key=park.keys["operator"])
    assert (response.status_code, response.text) == (403, ACCESS_DENIED)


async def test_what_is_refused_has_no_effect(park: Park) -> None:
    player = park.person(GUEST)
    await asyncio.gather(
        park.log(player.id, 600, ago=100_000, key="nonsense"),
        park.log(player.id, 600, ago=100_000, key=park.keys["operator"]),
        park.log(player.id, 600, ago=100_000, roblox_id="1002"),
        park.log(player.id, 600, ago=100_000, training="perhaps"),
    )
    await park.log_minute(player.id)
    await park.has_points(player.id, 1)


async def _is_gone(park: Park, key: str) -> None:
    async def is_refused_now() -> bool:
        response = await PROFILE.call(park, key=key)
        return (response.status_code, response.text) == (401, INVALID_KEY)

    await wait_until(is_refused_now)
