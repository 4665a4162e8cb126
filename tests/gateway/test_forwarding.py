"""What reaches a service, and what comes back; the same within the process and over HTTP."""

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.gateway.builders import echoes, headers_of, make_key, open_gateway, served
from tests.support import Servers


@pytest.fixture(scope="module", params=["in the process", "over HTTP"])
async def client(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[httpx.AsyncClient]:
    """Calls a gateway in front of echoes, with a key of every right."""
    apps = echoes()
    key = await make_key(servers, "operator")
    if request.param == "in the process":
        async with open_gateway(servers, apps) as opened:
            opened.headers["x-api-key"] = key
            yield opened
    else:
        async with served(apps["accounts"]) as accounts, served(apps["applications"]) as applications:
            upstreams = {"accounts": [accounts], "applications": [applications]}
            async with open_gateway(servers, upstreams=upstreams) as opened:
                opened.headers["x-api-key"] = key
                yield opened


async def test_a_route_is_answered_by_its_service(client: httpx.AsyncClient) -> None:
    for method, path, service in (
        ("GET", "/profile", "accounts"),
        ("POST", "/application/approve", "applications"),
        ("GET", "/applications/Ab-_9", "applications"),
    ):
        seen = (await client.request(method, path, params={"id": "1"})).json()
        assert (seen["service"], seen["method"], seen["path"], seen["query"]) == (
            service,
            method,
            path,
            "id=1",
        )


async def test_a_body_reaches_the_service_byte_by_byte(client: httpx.AsyncClient) -> None:
    body = bytes(range(256)) * 700
    response = await client.post("/application/upload", content=body, headers={"Content-Type": "a/b"})
    assert response.json()["body"].encode("latin-1") == body
    assert headers_of(response)["content-type"] == "a/b"
    assert headers_of(response)["content-length"] == str(len(body))


async def test_a_body_in_parts_reaches_the_service_whole(client: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"part "

    response = await client.post("/application/upload", content=parts())
    assert response.json()["body"] == "part part part "
    assert headers_of(response)["content-length"] == "15"
    assert "transfer-encoding" not in headers_of(response)


async def test_a_gzip_body_reaches_the_service_unpacked(client: httpx.AsyncClient) -> None:
    packed = gzip.compress(b'{"q1":"yes"}')
    response = await client.post("/application/upload", content=packed, headers={"Content-Encoding": "gzip"})
    assert response.json()["body"] == '{"q1":"yes"}'
    assert "content-encoding" not in headers_of(response)


async def test_headers_for_this_hop_or_for_nobody_do_not_reach_the_service(client: httpx.AsyncClient) -> None:
    dropped = {
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Trailer": "x",
        "Upgrade": "h2c",
        "Proxy-Authorization": "x",
        "Proxy-Connection": "x",
        "Expect": "x",
        "Forwarded": "for=203.0.113.7",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Host": "evil.example",
        "X-Real-IP": "203.0.113.7",
        "X_Callboard_Token": "x",
        "Roblox_Id": "1",
        "X-For-This-Hop": "x",
        "Connection": "close, X-For-This-Hop",
    }
    kept = {"Roblox-Id": "1001", "Idempotency-Key": "k-1", "User-Agent": "Roblox/Linux", "Accept": "x/y"}
    seen = headers_of(await client.get("/profile", headers=dropped | kept))
    assert not {name.lower() for name in dropped} - {"connection"} & set(seen)
    assert seen.get("connection", "keep-alive") == "keep-alive"
    assert {name: seen[name.lower()] for name in kept} == kept
    assert set(seen) - {"host", "content-length", "connection"} == {
        *(name.lower() for name in kept),
        "x-callboard-token",
        "x-callboard-key",
        "x-request-id",
    }


async def test_connection_cannot_take_away_what_the_gateway_needs(
    client: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    named = (
        "close, X-Api-Key, authorization, Roblox-Id, x-forwarded-for, content-encoding, content-length, host, "
        "X-Callboard-Token, x-callboard-key, x-request-id, connection, ,"
    )
    headers = {"Connection": named, "Content-Encoding": "gzip", "Roblox-Id": "1"}
    packed = gzip.compress(b"hello")
    response = await client.post("/application/upload", content=packed, headers=headers)
    seen = headers_of(response)
    assert response.json()["body"] == "hello"
    assert (seen["content-length"], seen["x-request-id"]) == ("5", response.headers["x-request-id"])
    assert {"x-callboard-token", "x-callboard-key"} <= set(seen)
    assert "roblox-id" not in seen
    headers = {"Connection": "x-api-key, roblox-id", "x-api-key": keys["roblox"], "Roblox-Id": "1001"}
    for place, status in (("1001", 200), ("1002", 403)):
        assert (await client.get("/connect", params={"place": place}, headers=headers)).status_code == status


async def test_what_several_connection_headers_name_goes_no_further(client: httpx.AsyncClient) -> None:
    headers = [("Connection", "keep-alive"), ("Connection", " X-One ,x-two"), ("X-One", "1"), ("X-TWO", "2")]
    seen = headers_of(await client.get("/profile", headers=headers))
    assert not {"x-one", "x-two"} & set(seen)


async def test_a_name_that_could_pass_for_another_reaches_no_service(client: httpx.AsyncClient) -> None:
    aliases = dict.fromkeys(
        (
            "roblox_id",
            "Roblox_Id",
            "x_callboard_token",
            "X_Callboard_Key",
            "x-callboard_token",
            "x_request_id",
            "idempotency_key",
            "x_api_key",
            "x_forwarded_for",
            "content_length",
            "host_",
            "_",
            "x-callboard-",
            "x-callboard-token-2",
            "X-CALLBOARD-TOKEN",
            "X-Forwarded-Proto",
            "x-forwarded-",
        ),
        "mine",
    )
    response = await client.get("/profile", headers=aliases)
    assert not [name for name, value in response.json()["headers"] if "mine" in value or "_" in name]


async def test_the_services_answer_comes_back_with_the_gateways_request_id_only(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/profile")
    assert response.headers["x-of-the-service"] == "kept"
    assert response.headers["content-type"] == "application/json"
    assert response.headers.get_list("x-request-id") == [headers_of(response)["x-request-id"]]
    assert "connection" not in response.headers
