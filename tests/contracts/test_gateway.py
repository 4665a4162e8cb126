"""What is public, and what is not."""

import asyncio
import re

import pytest

from common.text import escape_for_discord
from tests.contracts.park import NOT_FOUND, Park, is_refused
from tests.contracts.routes import APPLICATION, GRANT, PROFILE, REVOKE, ROUTES, Route, name


async def test_health_and_docs_need_no_key(park: Park) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await park.call("GET", path)).status_code == 200
    assert (await park.call("GET", "/healthz")).json()["status"] == "ok"
    assert (await park.call("GET", "/readyz")).json()["status"] == "ready"


async def test_the_docs_are_a_page_for_people(park: Park) -> None:
    response = await park.call("GET", "/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "openapi" in response.text


async def test_openapi_describes_exactly_the_public_routes(park: Park) -> None:
    page = (await park.call("GET", "/openapi.json")).json()
    described = {(method.upper(), path) for path, methods in page["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES} | {("GET", APPLICATION)}


@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_openapi_describes_exactly_the_parameters_of_a_route(park: Park, route: Route) -> None:
    page = (await park.call("GET", "/openapi.json")).json()
    operation = page["paths"][route.path][route.method.lower()]
    in_query = {one["name"]: one for one in operation.get("parameters", []) if one["in"] == "query"}
    one_of = {"username", "discord", "id"}
    optional = one_of if route in (PROFILE, GRANT, REVOKE) else set(route.optional)
    assert set(in_query) - {"key"} == set(route.params) | optional
    required = {one for one, described in in_query.items() if described.get("required")}
    assert required - {"key"} == set(route.params) - optional
    assert operation["summary"]
    assert "200" in operation["responses"]


async def test_openapi_describes_the_body_of_an_upload(park: Park) -> None:
    page = (await park.call("GET", "/openapi.json")).json()
    content = page["paths"]["/application/upload"]["post"]["requestBody"]["content"]
    assert {"application/json", "application/x-www-form-urlencoded"} <= set(content)


async def test_openapi_leads_nowhere(park: Park) -> None:
    text = (await park.call("GET", "/openapi.json")).text
    page = (await park.call("GET", "/openapi.json")).json()
    known = set(page.get("components", {}).get("schemas", {}))
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) <= known
    assert "internal" not in text.lower().replace("internal error", "")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/internal/member",
        "/internal/rank",
        "/internal/certifications",
        "/accounts/connect",
        "/connect/",
        "/Connect",
        "/profile/1",
        "/certification",
        "/certification/give",
        "/application",
        "/applications",
        "/applications/",
        "/applications/a/b",
        "/redoc",
        "/docs/oauth2-redirect",
        "/admin",
        "/.env",
        "/log.json",
    ],
)
async def test_all_else_is_404_with_or_without_a_key(park: Park, path: str) -> None:
    for key in (None, park.keys["operator"]):
        for method in ("GET", "POST"):
            response = await park.call(method, path, {"id": 1}, key=key)
            assert (response.status_code, response.text) == (404, NOT_FOUND)


async def test_the_token_between_services_is_not_taken_from_a_caller(park: Park) -> None:
    headers = {"x-callboard-token": "x" * 43, "x-callboard-key": "operator", "x-request-id": "mine"}
    response = await park.call("GET", "/internal/member", {"id": 1}, headers=headers)
    assert (response.status_code, response.text) == (404, NOT_FOUND)
    response = await park.call("GET", "/profile", {"id": 1}, headers=headers, key=park.keys["discord"])
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "//profile",
        "/./profile",
        "/x/../profile",
        "/%70rofile",
        "/profile%2f",
        "/profile%00",
        "/profile;x=1",
        "/internal%2fmember",
        "/applications/..%2f..%2finternal%2fmember",
        "/applications/%2e%2e/profile",
        "/\\profile",
    ],
)
async def test_a_path_has_one_way_to_be_written(park: Park, path: str) -> None:
    status = await _status_of(
        park, f"GET {path}?id=1 HTTP/1.1\r\nHost: localhost\r\nx-api-key: {park.keys['operator']}\r\n"
    )
    assert status in (400, 404)


@pytest.mark.parametrize("route", [*ROUTES, APPLICATION], ids=name)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "DELETE", "PUT", "PATCH"])
async def test_a_method_that_a_route_does_not_have_is_405(
    park: Park, method: str, route: Route | str
) -> None:
    path = "/applications/AAAA" if isinstance(route, str) else route.path
    response = await park.call(method, path, {"id": 1}, key=park.keys["operator"])
    assert response.status_code == 405
    assert response.headers["allow"] == ("GET" if isinstance(route, str) else route.method)
    if method != "HEAD":
        is_refused(response, 405)


async def test_a_success_is_never_cached_by_a_shared_cache_as_public(park: Park) -> None:
    response = await park.call("GET", "/profile", {"id": 1}, key=park.keys["operator"])
    assert "public" not in response.headers.get("cache-control", "")


async def test_a_body_on_a_route_without_one_is_ignored_up_to_its_limit(park: Park) -> None:
    person = park.person()
    params = {"certification": "tot", "username": person.username, "moderator": "400000000000000004"}
    response = await park.call(
        "POST", "/certification/revoke", params, key=park.keys["discord"], json={"username": "Roblox"}
    )
    assert response.json() == {
        "status": "error",
        "discord": f"**{escape_for_discord(person.username)}** doesn't have the **tot** certification.",
    }
    is_refused(
        await park.call(
            "POST", "/certification/revoke", params, key=park.keys["discord"], content=b"x" * 200_000
        ),
        413,
    )


async def test_an_answer_names_neither_the_software_nor_a_service(park: Park) -> None:
    response = await park.call("GET", "/profile", {"id": 1}, key=park.keys["operator"])
    assert not {"server", "x-powered-by"} & set(response.headers)
    assert not [header for header in response.headers if header.startswith("x-callboard")]


async def test_answers_carry_a_request_id_of_their_own(park: Park) -> None:
    headers = {"x-request-id": "mine"}
    responses = [
        await park.call("GET", "/profile", {"id": 1}, key=park.keys["operator"], headers=headers)
        for _ in range(3)
    ]
    assert len({response.headers["x-request-id"] for response in responses} - {"mine"}) == 3


async def _status_of(park: Park, head: str) -> int:
    """The status of a request that is sent as it is written: a client would tidy it up."""
    port = int(park.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        async with asyncio.timeout(30):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()
