"""A key in a request is in no log, error or metric; what is logged of each request instead."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from starlette.types import Receive, Scope, Send

from common import logs
from tests.gateway.builders import echoes, make_key, open_gateway, unique_name
from tests.support import Servers, unique_id


async def broken(_: Scope, __: Receive, ___: Send) -> None:
    raise RuntimeError("broken")


@pytest.fixture(scope="module")
async def client(servers: Servers) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in front of echoes, of a service that fails and of one that is away."""
    apps = echoes()
    del apps["shifts"]
    upstreams = {"shifts": ["http://127.0.0.1:1"]}
    async with open_gateway(servers, apps | {"certifications": broken}, upstreams=upstreams) as opened:
        yield opened


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Answers all that was logged, at every level, as it is written in production."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure_logging("gateway", "DEBUG")
    try:
        yield lambda: capsys.readouterr().err
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def access_lines(logged: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in logged.splitlines()]
    return [line for line in lines if line["logger"] == "gateway.access"]


async def test_a_key_is_in_no_log_error_or_metric(
    client: httpx.AsyncClient, servers: Servers, logged: Callable[[], str]
) -> None:
    canary = await make_key(servers, "operator")
    roblox_canary = await make_key(servers, "roblox")
    unknown = "cb_operator_" + f"{unique_id():043d}"
    answers = []
    for key in (canary, roblox_canary, unknown, canary[:-1]):
        for path in (
            "/profile",
            "/unknown",
            "/certification/grant",
            "/application/upload",
            "/applications/CanaryToken",
            "/log",
        ):
            for query, headers in (
                (f"?key={key}&place=1001&id=SecretValue", {"Roblox-Id": "1001"}),
                ("?place=1001", {"x-api-key": key, "Roblox-Id": "1001"}),
                ("?place=1001", {"Authorization": f"Bearer {key}", "Roblox-Id": "1001"}),
            ):
                answers += [
                    await client.request(method, path + query, headers=headers) for method in ("GET", "POST")
                ]
    assert {200, 401, 403, 404, 405, 500, 503} <= {answer.status_code for answer in answers}
    await asyncio.sleep(0)  # as below
    everything = logged() + generate_latest().decode()
    for answer in answers:
        if answer.status_code != 200:
            everything += answer.text + str(answer.headers)
    for secret in (
        canary,
        roblox_canary,
        unknown,
        canary[:-1],
        "SecretValue",
        "CanaryToken",
        servers.internal_token,
    ):
        assert secret not in everything


async def test_each_request_is_one_line_that_names_the_route_and_the_key(
    client: httpx.AsyncClient, servers: Servers, logged: Callable[[], str]
) -> None:
    name = unique_name()
    key = await make_key(servers, "discord", name=name)
    response = await client.get(f"/profile?key={key}&id=1&place=1001")
    await client.get("/applications/AAAA")
    await client.delete("/profile")
    await client.get("/nowhere")
    await client.get(f"/connect?key={key}&place=x", headers={"Roblox-Id": "1001"})
    await asyncio.sleep(0)  # lines are written in the next turn of the event loop
    found, anyone, wrong_method, nowhere, denied = access_lines(logged())
    assert {
        name: found[name] for name in ("route", "method", "status", "key", "place", "request_id", "level")
    } == {
        "route": "/profile",
        "method": "GET",
        "status": 200,
        "key": name,
        "place": "1001",
        "request_id": response.headers["X-Request-Id"],
        "level": "INFO",
    }
    assert found["time"] and 0 <= found["upstream_milliseconds"] <= found["milliseconds"] < 10_000
    assert (denied["upstream_milliseconds"], nowhere["upstream_milliseconds"]) == (None, None)
    assert (anyone["route"], anyone["key"], anyone["place"]) == ("/applications/{token}", None, None)
    assert (wrong_method["route"], wrong_method["status"]) == ("/profile", 405)
    assert (nowhere["route"], nowhere["status"]) == ("other", 404)
    assert (denied["status"], denied["key"], denied["place"]) == (403, name, None)


async def test_requests_are_counted_and_timed_by_route_status_key_and_service(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    def count(line: str) -> float:
        found = [text for text in generate_latest().decode().splitlines() if text.startswith(line)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    name = unique_name()
    key = await make_key(servers, "discord", name=name)
    of_gateway = 'service="gateway",status='
    lines = (
        f'callboard_requests_total{{key="",method="GET",route="/applications/{{token}}",{of_gateway}"200"}}',
        f'callboard_requests_total{{key="{name}",method="GET",route="/profile",{of_gateway}"200"}}',
        f'callboard_requests_total{{key="",method="other",route="other",{of_gateway}"404"}}',
        'callboard_request_seconds_count{route="/applications/{token}",service="gateway"}',
        'callboard_upstream_seconds_count{upstream="applications"}',
        'callboard_upstream_seconds_count{upstream="accounts"}',
    )
    before = [count(line) for line in lines]
    await client.get("/applications/AAAA")
    await client.get("/profile", headers={"x-api-key": key})
    await client.get("/nowhere")
    assert [count(line) for line in lines] == [number + 1 for number in before]
