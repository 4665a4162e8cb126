"""Who may pass, in which order that is judged, and what is answered: to the character."""

import httpx
import pytest

from gateway.routes import Route, load_routes
from tests.gateway.builders import make_key
from tests.support import Servers

INVALID_KEY = '{"status":"error","message":"invalid key"}'
ACCESS_DENIED = '{"status":"error","message":"access denied"}'
NOT_FOUND = '{"status":"error","message":"not found"}'
METHOD_NOT_ALLOWED = '{"status":"error","message":"method not allowed"}'

ROUTES = load_routes().all
KEYED = [route for route in ROUTES if not route.anyone]
ROBLOX_ONLY = [route for route in ROUTES if route.roblox_only]


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route) -> str:
    return route.path.replace("{token}", "AAAA")


def bearer(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/unknown",
        "/internal/member",
        "/connect/",
        "/Connect",
        "//connect",
        "/connect;a=1",
        "/connect%2f",
        "/conn%65ct",
        "/connect%00",
        "/applications/",
        "/applications/..",
        "/applications/a.b",
        "/applications/a%2fb",
        "/applications/a/b",
        "/metrics",
        "/%68ealthz",
        "/docs/",
    ],
)
async def test_what_is_not_public_is_404_whatever_the_key_and_the_method(
    client: httpx.AsyncClient, keys: dict[str, str], path: str
) -> None:
    url = httpx.URL("http://test").copy_with(raw_path=path.encode())
    for method in ("GET", "POST", "OPTIONS"):
        response = await client.request(method, url, headers=bearer(keys["operator"]))
        assert (response.status_code, response.text) == (404, NOT_FOUND)


@pytest.mark.parametrize("route", ROUTES, ids=named)
async def test_another_method_is_405_even_with_a_wrong_key(client: httpx.AsyncClient, route: Route) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"} - {route.method}:
        response = await client.request(method, path_of(route), headers=bearer("wrong"))
        body = "" if method == "HEAD" else METHOD_NOT_ALLOWED
        assert (response.status_code, response.text) == (405, body)
        assert response.headers["Allow"] == route.method


@pytest.mark.parametrize("route", KEYED, ids=named)
async def test_without_a_valid_key_it_is_401_whatever_else_is_wrong(
    client: httpx.AsyncClient, keys: dict[str, str], route: Route
) -> None:
    real = keys["discord"]
    for headers in (
        {},
        bearer(""),
        bearer("wrong"),
        bearer(real[:-1]),
        bearer(real + "A"),
        bearer("cb_" + "A" * 50),
    ):
        response = await client.request(route.method, path_of(route) + "?place=x", headers=headers)
        assert (response.status_code, response.text) == (401, INVALID_KEY)


@pytest.mark.parametrize("route", KEYED, ids=named)
async def test_a_key_passes_only_where_its_scope_is_listed(
    client: httpx.AsyncClient, keys: dict[str, str], route: Route
) -> None:
    for scope, key in keys.items():
        response = await client.request(
            route.method,
            path_of(route),
            params={"place": "1001"},
            headers=bearer(key, **{"Roblox-Id": "1001"}),
        )
        assert response.status_code == (200 if scope in route.scopes else 403), scope
        if scope not in route.scopes:
            assert response.text == ACCESS_DENIED


@pytest.mark.parametrize("route", ROBLOX_ONLY, ids=named)
async def test_the_scope_is_judged_before_roblox_and_roblox_before_the_place(
    client: httpx.AsyncClient, keys: dict[str, str], route: Route
) -> None:
    async def call(key: str, roblox_id: str | None, query: str) -> tuple[int, str]:
        headers = bearer(keys[key]) | ({"Roblox-Id": roblox_id} if roblox_id is not None else {})
        response = await client.request(route.method, f"{route.path}?{query}", headers=headers)
        return response.status_code, response.text

    def invalid(what: str) -> tuple[int, str]:
        return 400, f'{{"status":"error","message":"invalid query: {what}"}}'

    assert await call("operator", "1001", "place=1001") == (403, ACCESS_DENIED)
    for roblox_id in (None, "", "x", "1001x", "-1", "1001,1001", "1" * 20, "1" * 5000):
        assert await call("roblox", roblox_id, "place=1001") == (403, ACCESS_DENIED)
        assert await call("roblox", roblox_id, "place=x") == (403, ACCESS_DENIED)
    assert await call("roblox", "1001", "") == invalid("place is missing")
    assert await call("roblox", "1001", "place=") == invalid("place is missing")
    assert await call("roblox", "1001", "place=x") == invalid(
        "place must be a whole number from 1 to 9223372036854775807"
    )
    assert await call("roblox", "1001", "place=1001&place=1001") == invalid("place is given more than once")
    assert await call("roblox", "1001", "place=1002") == (403, ACCESS_DENIED)
    assert (await call("roblox", "1001", "place=1001"))[0] == 200
    largest = str(2**63 - 1)
    assert (await call("roblox", largest, f"place={largest}"))[0] == 200


async def test_a_key_for_some_places_passes_from_these_only(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    key = await make_key(servers, "roblox", places=[1001, 1002])
    for place, status in (("1001", 200), ("1002", 200), ("1003", 403)):
        headers = bearer(key, **{"Roblox-Id": place})
        response = await client.get("/connect", params={"place": place}, headers=headers)
        assert response.status_code == status


async def test_a_key_for_some_networks_passes_from_these_only_on_every_route(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    here = await make_key(servers, "discord", networks=["203.0.113.0/24", "127.0.0.0/8"])
    elsewhere = await make_key(servers, "discord", networks=["203.0.113.0/24", "2001:db8::/32"])
    assert (await client.get("/profile", headers=bearer(here))).status_code == 200
    response = await client.get("/profile", headers=bearer(elsewhere))
    assert (response.status_code, response.text) == (403, ACCESS_DENIED)


async def test_anyone_may_read_an_application_with_or_without_a_key(
    client: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    for headers in ({}, bearer(keys["discord"]), bearer("wrong")):
        response = await client.get("/applications/Ab-_9", headers=headers)
        assert response.json()["path"] == "/applications/Ab-_9"


async def test_the_key_is_judged_before_the_size_and_the_size_before_the_service(
    client: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    large = b"x" * 200_000
    assert (await client.post("/application/upload", content=large)).status_code == 401
    assert (
        await client.post("/application/approve", content=large, headers=bearer(keys["roblox"]))
    ).status_code == 403
    response = await client.post("/application/upload", content=large, headers=bearer(keys["roblox"]))
    assert (response.status_code, response.text) == (413, '{"status":"error","message":"body too large"}')


async def test_every_answer_carries_a_new_request_id(client: httpx.AsyncClient) -> None:
    responses = [
        await client.get(path, headers={"X-Request-Id": "mine"}) for path in ("/unknown", "/profile") * 2
    ]
    ids = {response.headers["X-Request-Id"] for response in responses}
    assert len(ids) == 4
    assert "mine" not in ids


async def test_health_needs_no_key(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready", "mongodb": "up"}
