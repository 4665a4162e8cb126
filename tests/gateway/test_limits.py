"""How often: a key, and whoever tries wrong ones."""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from common.errors import ConfigurationError
from gateway.main import create
from gateway.policies import rate_limit
from gateway.routes import load_routes
from gateway.settings import GatewaySettings
from tests.gateway.builders import changed_config, echoes, make_key, open_gateway
from tests.support import Servers, running, settings, wait_until

TOO_MANY = '{"status":"error","message":"too many requests"}'
OPTIONS = "[plugins.options.rate_limit]"


def wrong_key() -> dict[str, str]:
    return {"x-api-key": f"cb_operator_{secrets.token_urlsafe(32)}"}


def is_too_many(response: httpx.Response, within: int) -> bool:
    assert (response.status_code, response.text) == (429, TOO_MANY)
    return 1 <= int(response.headers["Retry-After"]) <= within


def limits(folder: Path, changes: Mapping[str, str]) -> Path:
    both: Mapping[str, str] = {'per_key = "60000/min"': "", 'wrong_keys_per_address = "60/min"': ""}
    return changed_config(folder, {**both, **changes})


async def test_a_keys_own_rate_counts_its_requests_only(client: httpx.AsyncClient, servers: Servers) -> None:
    eager, other = await make_key(servers, rate="3/h"), await make_key(servers, rate="3/h")
    for _ in range(3):
        assert (await client.get("/profile", headers={"x-api-key": eager})).status_code == 200
    assert is_too_many(await client.get("/profile", headers={"x-api-key": eager}), 3600)
    assert (await client.get("/profile", headers={"x-api-key": other})).status_code == 200


async def test_a_window_ends(client: httpx.AsyncClient, servers: Servers) -> None:
    key = await make_key(servers, rate="1/s")
    assert (await client.get("/profile", headers={"x-api-key": key})).status_code == 200

    async def passes() -> bool:
        response = await client.get("/profile", headers={"x-api-key": key})
        return response.status_code == 200 or not is_too_many(response, 1)

    async def is_refused() -> bool:
        return not await passes()

    await wait_until(is_refused)  # each time within one second, which a slow machine may not be at once
    await wait_until(passes)


def test_addresses_that_never_come_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=lambda: now))
    windows = rate_limit.Windows(sweep_seconds=0)
    for number in range(100):
        windows.count(5, 1, ("address", f"192.0.2.{number}"))
    assert len(windows) == 100
    now = 1.0
    windows.count(60, 60, ("address", "198.51.100.1"))
    assert len(windows) == 1


async def test_the_configured_rate_holds_for_keys_without_one(servers: Servers, tmp_path: Path) -> None:
    config = limits(tmp_path, {'per_key = "60000/min"': 'per_key = "2/h"'})
    key, with_rate = await make_key(servers), await make_key(servers, rate="5/h")
    async with open_gateway(servers, echoes(), config=config) as client:
        statuses = [(await client.get("/profile", headers={"x-api-key": key})).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        statuses = [
            (await client.get("/profile", headers={"x-api-key": with_rate})).status_code for _ in range(6)
        ]
        assert statuses == [200] * 5 + [429]


async def test_log_has_a_rate_of_its_own_for_each_key_and_server(servers: Servers) -> None:
    key, other = await make_key(servers, "roblox"), await make_key(servers, "roblox")
    route = next(route for route in load_routes().all if route.path == "/log")
    assert (route.rate, route.rate_by) == ("500/min", "server")

    async with open_gateway(servers, echoes()) as client:

        async def log(key: str, server: str) -> httpx.Response:
            query = {"place": "1001", "server": server}
            return await client.post("/log", params=query, headers={"x-api-key": key, "Roblox-Id": "1001"})

        for _ in range(500):
            assert (await log(key, "job-1")).status_code == 200
        assert is_too_many(await log(key, "job-1"), 60)
        assert (await log(key, "job-2")).status_code == 200
        assert (await log(other, "job-1")).status_code == 200


async def test_every_answer_to_a_key_says_what_is_left_of_the_nearest_limit(
    client: httpx.AsyncClient, servers: Servers
) -> None:
    key = await make_key(servers, rate="3/h")
    for left in (2, 1, 0):
        response = await client.get("/profile", headers={"x-api-key": key})
        found = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', response.headers["RateLimit"])
        assert found and int(found[1]) == left and 3500 < int(found[2]) <= 3600
        assert response.headers["RateLimit-Policy"] == '"requests";q=3;w=3600'
    refused = await client.get("/profile", headers={"x-api-key": key})
    assert is_too_many(refused, 3600)
    assert refused.headers["RateLimit"].startswith('"requests";r=0;t=')
    log = await client.post(
        "/log?place=1001&server=s",
        headers={"x-api-key": await make_key(servers, "roblox"), "Roblox-Id": "1001"},
    )
    assert log.headers["RateLimit-Policy"] == '"requests";q=500;w=60'


async def test_each_of_several_gateways_lets_its_part_pass(servers: Servers, tmp_path: Path) -> None:
    config = limits(tmp_path, {"replicas = 1": "replicas = 2"})
    key = await make_key(servers, rate="5/h")
    async with open_gateway(servers, echoes(), config=config) as client:
        statuses = [(await client.get("/profile", headers={"x-api-key": key})).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]


async def test_a_limited_request_is_counted_before_its_body_is_judged_and_reaches_no_service(
    servers: Servers,
) -> None:
    apps = echoes()
    key = await make_key(servers, rate="1/h")
    async with open_gateway(servers, apps) as client:
        for expected in (413, 429):
            response = await client.post(
                "/application/upload", headers={"x-api-key": key}, content=b"x" * 200_000
            )
            assert response.status_code == expected
    assert apps["applications"].seen == []


async def test_an_address_that_tries_many_wrong_keys_gets_429_and_right_keys_still_pass(
    servers: Servers, tmp_path: Path
) -> None:
    config = limits(tmp_path, {'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "3/h"'})
    key = await make_key(servers)
    async with open_gateway(servers, echoes(), config=config, trusted_proxies=["127.0.0.0/8"]) as client:
        for _ in range(3):
            assert (await client.get("/profile", headers=wrong_key())).status_code == 401
        assert is_too_many(await client.get("/profile", headers=wrong_key()), 3600)
        assert (await client.get("/profile", headers={"x-api-key": key})).status_code == 200
        assert (await client.get("/profile")).status_code == 401
        elsewhere = wrong_key() | {"X-Forwarded-For": "203.0.113.7"}
        assert (await client.get("/profile", headers=elsewhere)).status_code == 401


async def test_wrong_keys_from_one_ipv6_network_count_together(servers: Servers, tmp_path: Path) -> None:
    config = limits(tmp_path, {'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "3/h"'})
    async with open_gateway(servers, echoes(), config=config, trusted_proxies=["127.0.0.0/8"]) as client:

        async def try_from(address: str) -> int:
            headers = wrong_key() | {"X-Forwarded-For": address}
            return (await client.get("/profile", headers=headers)).status_code

        tried = [await try_from(f"2001:db8:0:1:{number:x}::{number:x}") for number in range(1, 6)]
        assert tried == [401, 401, 401, 429, 429]
        assert await try_from("2001:db8:0:2::1") == 401
        assert [await try_from(f"203.0.113.{number}") for number in range(5)] == [401] * 5


async def test_what_a_rate_goes_by_is_kept_no_longer_than_a_service_would_take_it(servers: Servers) -> None:
    key = await make_key(servers, "roblox")
    async with open_gateway(servers, echoes()) as client:

        async def left(server: str) -> str:
            query = {"place": "1001", "server": server}
            response = await client.post(
                "/log", params=query, headers={"x-api-key": key, "Roblox-Id": "1001"}
            )
            return response.headers["RateLimit"].split(";")[1]

        assert [await left("x" * 99 + end) for end in ("a", "b", "aa", "ab")] == [
            "r=499",
            "r=499",
            "r=498",
            "r=497",
        ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('per_key = "many"', "plugins.options.rate_limit.per_key"),
        ('per_keys = "5/min"', "plugins.options.rate_limit.per_keys"),
    ],
)
async def test_a_wrong_option_stops_the_start_with_its_name(
    servers: Servers, tmp_path: Path, line: str, reason: str
) -> None:
    own = settings(GatewaySettings, servers, config=limits(tmp_path, {OPTIONS: f"{OPTIONS}\n{line}"}))
    with pytest.raises(ConfigurationError, match=reason):
        async with running(create(own), own):
            pass
