"""Where a key may stand in a request, and that it goes no further than the gateway."""

import httpx
import pytest

from tests.gateway.builders import headers_of, make_key
from tests.support import Servers

INVALID_KEY = '{"status":"error","message":"invalid key"}'


async def test_a_key_may_come_in_the_query_as_x_api_key_or_as_bearer(
    client: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    key = keys["discord"]
    for query, headers in (
        (f"key={key}", {}),
        (f"k%65y={key}", {}),
        (f"key=&key={key}", {}),
        ("", {"x-api-key": key}),
        ("", {"Authorization": f"Bearer {key}"}),
        ("", {"Authorization": f"bEARER  {key}"}),
        ("", {"Authorization": "Basic eDp5", "x-api-key": key}),
    ):
        response = await client.get(f"/profile?{query}", headers=headers)
        assert response.status_code == 200, (query.replace(key, "KEY"), list(headers))


async def test_the_same_key_in_several_places_passes(client: httpx.AsyncClient, keys: dict[str, str]) -> None:
    key = keys["discord"]
    headers = [("x-api-key", key), ("x-api-key", key), ("Authorization", f"Bearer {key}")]
    assert (await client.get(f"/profile?key={key}&key={key}", headers=headers)).status_code == 200


async def test_two_keys_that_differ_are_401_even_if_both_are_valid(
    client: httpx.AsyncClient, keys: dict[str, str], servers: Servers
) -> None:
    one, other = keys["discord"], await make_key(servers, "discord")
    for query, headers in (
        (f"key={one}&key={other}", []),
        (f"key={one}&k%65y={other}", []),
        (f"key={one}", [("x-api-key", other)]),
        (f"key={one}", [("Authorization", f"Bearer {other}")]),
        ("", [("x-api-key", one), ("x-api-key", other)]),
        ("", [("x-api-key", one), ("Authorization", f"Bearer {other}")]),
        ("", [("Authorization", f"Bearer {one}"), ("Authorization", f"Bearer {other}")]),
        ("key=wrong", [("x-api-key", one)]),
    ):
        response = await client.get(f"/profile?{query}", headers=headers)
        assert (response.status_code, response.text) == (401, INVALID_KEY)


async def test_what_only_looks_like_a_key_parameter_is_none(
    client: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    key = keys["discord"]
    for query in (f"Key={key}", f"key[]={key}", f"key[0]={key}", f"x-api-key={key}"):
        assert (await client.get(f"/profile?{query}")).status_code == 401
    for header in ("x_api_key", "key", "x-api-key2"):
        assert (await client.get("/profile", headers={header: key})).status_code == 401


@pytest.mark.parametrize(
    ("query", "forwarded"),
    [
        ("key=KEY", ""),
        ("id=1&key=KEY", "id=1"),
        ("key=KEY&id=1", "id=1"),
        ("a=1&k%65y=KEY&b=2", "a=1&b=2"),
        ("a=1&key=KEY&key=KEY&b", "a=1&b"),
        ("a=%20+x&key=KEY&&b=1;c&a=%E2%82%AC&Key=x&keyy=1", "a=%20+x&&b=1;c&a=%E2%82%AC&Key=x&keyy=1"),
    ],
)
async def test_the_query_reaches_the_service_as_it_came_but_for_the_key(
    client: httpx.AsyncClient, keys: dict[str, str], query: str, forwarded: str
) -> None:
    url = httpx.URL("http://test").copy_with(
        raw_path=b"/profile?" + query.replace("KEY", keys["discord"]).encode()
    )
    response = await client.get(url)
    assert response.json()["query"] == forwarded


async def test_the_key_reaches_a_service_in_no_form(client: httpx.AsyncClient, keys: dict[str, str]) -> None:
    key = keys["discord"]
    headers = {"x-api-key": key, "Authorization": f"Bearer {key}"}
    response = await client.get(f"/profile?id=1&key={key}", headers=headers)
    assert response.json()["query"] == "id=1"
    assert key not in response.text


async def test_the_service_learns_the_keys_name_and_whose_request_it_is(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    key = await make_key(servers, "discord", name="the-bot")
    spoofed = {
        "x-callboard-token": "mine",
        "x-callboard-key": "somebody",
        "x-callboard-anything": "x",
        "X-Request-Id": "mine",
    }
    response = await client.get("/profile", headers={"x-api-key": key, **spoofed})
    headers = response.json()["headers"]
    assert [value for name, value in headers if name == "x-callboard-key"] == ["the-bot"]
    assert [value for name, value in headers if name == "x-callboard-token"] == [servers.internal_token]
    assert [value for name, value in headers if name == "x-request-id"] == [response.headers["X-Request-Id"]]
    assert not [name for name, _ in headers if name == "x-callboard-anything"]


async def test_without_a_key_the_service_is_told_no_name(client: httpx.AsyncClient) -> None:
    response = await client.get("/applications/AAAA", headers={"x-callboard-key": "somebody"})
    assert "x-callboard-key" not in headers_of(response)
    assert headers_of(response)["x-callboard-token"]
