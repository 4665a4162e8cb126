"""No cache keeps what a key is needed for: Roblox's GetAsync does, unless it is told."""

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.routes import load_routes
from tests.gateway.builders import SERVICES, open_gateway
from tests.support import Servers

KEYED = [route for route in load_routes().all if route.method == "GET" and not route.anyone]


def test_there_are_routes_to_look_at() -> None:
    assert {"/connect", "/profile"} <= {route.path for route in KEYED}


@pytest.mark.parametrize("path", [route.path for route in KEYED])
async def test_no_answer_of_a_keyed_get_is_stored(
    client: httpx.AsyncClient, keys: dict[str, str], path: str
) -> None:
    answers = []
    for headers in (
        {"x-api-key": keys["roblox"], "Roblox-Id": "1001"},
        {"x-api-key": keys["roblox"], "Roblox-Id": "1"},
        {"x-api-key": keys["discord"]},
        {"x-api-key": keys["roblox"] + "x"},
        {},
    ):
        queries = ("?place=1001&id=1", "?place=x", "")
        answers += [await client.get(path + query, headers=headers) for query in queries]
    assert {200, 401} <= {answer.status_code for answer in answers}
    assert {answer.headers.get("cache-control") for answer in answers} == {"no-store"}


async def test_no_error_of_a_service_is_stored(servers: Servers, keys: dict[str, str]) -> None:
    status = 500

    async def refuse(_: Scope, __: Receive, send: Send) -> None:
        if status == 500:
            raise RuntimeError
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    headers = {"x-api-key": keys["roblox"], "Roblox-Id": "1001"}
    async with open_gateway(servers, dict.fromkeys(SERVICES, refuse)) as client:
        for status in (500, 400, 404, 503):
            for route in KEYED:
                answer = await client.get(f"{route.path}?place=1001", headers=headers)
                assert answer.status_code == status
                assert "no-store" in answer.headers["cache-control"]


async def test_what_anyone_may_read_is_stored_as_its_service_says(client: httpx.AsyncClient) -> None:
    assert "cache-control" not in (await client.get("/applications/AAAA")).headers
