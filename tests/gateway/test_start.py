"""What the gateway reads when it starts, and what stops the start."""

import asyncio
import json
import shutil
import signal
import ssl
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import httpx
import pytest

from callboard.servers import free_port
from common import plugins
from common.errors import ConfigurationError, ServiceError
from common.mongo import migrate
from common.outgoing.limits import OutgoingLimits
from common.plugins import PluginContext
from common.server import IDLE_SECONDS, uvicorn_config
from gateway.main import create
from gateway.policies import Call
from gateway.repository import COLLECTIONS
from gateway.settings import GatewaySettings
from tests.gateway.builders import (
    answers_requests,
    changed_config,
    echoes,
    make_key,
    open_database,
    open_gateway,
    start_process,
)
from tests.support import Servers, running, settings, wait_until
from tests.support.machine import START_SECONDS

KEPT_BY_PROXIES = {"nginx": 60, "an AWS load balancer": 60, "Caddy": 120}
POLICIES = 'policies = ["api_key", "roblox_only", "rate_limit"]'


async def test_metrics_are_on_a_port_of_their_own_and_never_on_the_public_one(servers: Servers) -> None:
    port = free_port()
    async with open_gateway(servers, echoes(), metrics_port=port) as client:
        assert (await client.get("/metrics")).status_code == 404
        await client.get("/applications/AAAA")
        async with httpx.AsyncClient(timeout=60) as prometheus:
            answer = await prometheus.get(f"http://127.0.0.1:{port}/metrics")
        assert 'callboard_requests_total{key="",method="GET",route="/applications/{token}"' in answer.text
    async with httpx.AsyncClient(timeout=60) as prometheus:
        with pytest.raises(httpx.ConnectError):
            await prometheus.get(f"http://127.0.0.1:{port}/metrics")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"upstreams": {"accounts": []}}, "CALLBOARD_UPSTREAMS_ACCOUNTS: "),
        ({"upstreams": {"accounts": ["accounts:8000"]}}, "CALLBOARD_UPSTREAMS_ACCOUNTS_0: "),
        ({"upstreams": {"accounts": ["http://accounts:8000/"]}}, "CALLBOARD_UPSTREAMS_ACCOUNTS_0: "),
        ({"upstreams": {"accounts": ["http://accounts:http"]}}, "CALLBOARD_UPSTREAMS_ACCOUNTS_0: "),
        ({"upstreams": {"accounts": ["http://a:b@accounts:8000"]}}, "CALLBOARD_UPSTREAMS_ACCOUNTS_0: "),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "CALLBOARD_TRUSTED_PROXIES_0: "),
        ({"metrics_port": 65536}, "CALLBOARD_METRICS_PORT: "),
        ({"tls_cert": "cert.pem"}, "CALLBOARD_TLS_KEY: .*expected together with CALLBOARD_TLS_CERT"),
        ({"tls_key": "key.pem"}, "CALLBOARD_TLS_KEY: .*expected together with CALLBOARD_TLS_CERT"),
    ],
)
def test_a_wrong_setting_is_named(servers: Servers, given: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        settings(GatewaySettings, servers, **given)


def test_lists_come_from_the_environment_as_json(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_UPSTREAMS", '{"shifts": ["http://a:1", "https://b", "http://[::1]:2"]}')
    monkeypatch.setenv("CALLBOARD_TRUSTED_PROXIES", '["10.0.0.0/8", "fd00::/8"]')
    own = settings(GatewaySettings, servers)
    assert own.upstreams == {"shifts": ["http://a:1", "https://b", "http://[::1]:2"]}
    assert [str(network) for network in own.trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]


async def test_a_database_that_is_not_migrated_stops_the_start(servers: Servers) -> None:
    app = create(settings(GatewaySettings, servers))
    async with open_database(servers) as database:
        await database["keys"].drop_index("changed_at")
        with pytest.raises(ConfigurationError, match='index changed_at of keys: run "callboard migrate"'):
            async with app.router.lifespan_context(app):
                pass
        await migrate(database, COLLECTIONS)


async def test_an_unknown_policy_stops_the_start(servers: Servers, tmp_path: Path) -> None:
    config = changed_config(tmp_path, {POLICIES: 'policies = ["api_key", "captcha"]'})
    own = settings(GatewaySettings, servers, config=config)
    with pytest.raises(ConfigurationError, match='No plugin "captcha"'):
        async with running(create(own), own):
            pass


class Lunch:
    """A policy of somebody else's: nobody passes at noon."""

    is_open = False

    def __init__(self, context: PluginContext) -> None:
        assert context.name == "lunch"

    async def __aenter__(self) -> None:
        Lunch.is_open = True

    async def __aexit__(self, *_: object) -> None:
        Lunch.is_open = False

    async def check(self, call: Call) -> None:
        if "noon" in call.values("time"):
            raise ServiceError(418, f"lunch, {call.key.name if call.key else 'you'}")


class _LunchEntry:
    name = "lunch"

    def load(self) -> type[Lunch]:
        return Lunch


@asynccontextmanager
async def with_policies(
    servers: Servers, folder: Path, monkeypatch: pytest.MonkeyPatch, policies: str
) -> AsyncIterator[httpx.AsyncClient]:
    installed = metadata.entry_points

    def with_lunch(*, group: str, name: str) -> object:
        return [_LunchEntry()] if name == "lunch" else installed(group=group, name=name)

    monkeypatch.setattr(plugins, "entry_points", with_lunch)
    config = changed_config(folder, {POLICIES: f"policies = {policies}"})
    async with open_gateway(servers, echoes(), config=config) as client:
        yield client


async def test_a_policy_of_ones_own_judges_in_its_turn(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(servers, name="guest")
    async with with_policies(servers, tmp_path, monkeypatch, '["api_key", "lunch"]') as client:
        assert Lunch.is_open
        headers = {"x-api-key": key}
        assert (await client.get("/profile?time=noon")).status_code == 401
        assert (await client.get("/profile?time=night", headers=headers)).status_code == 200
        response = await client.get("/profile?time=noon", headers=headers)
        assert (response.status_code, response.json()["message"]) == (418, "lunch, guest")
    assert not Lunch.is_open


async def test_without_a_policy_that_names_a_key_only_the_routes_for_anyone_pass(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(servers, "roblox")
    headers = {"x-api-key": key, "Roblox-Id": "1001"}
    for policies in ('["lunch"]', '["rate_limit"]', '["roblox_only"]'):
        async with with_policies(servers, tmp_path, monkeypatch, policies) as client:
            assert (await client.get("/profile", headers=headers)).status_code == 401
            assert (await client.get("/connect?place=1001", headers=headers)).status_code in (401, 403)
            assert (await client.get("/applications/AAAA")).status_code == 200


def test_idle_connections_are_kept_longer_than_proxies_keep_theirs(servers: Servers) -> None:
    async def app(*_: object) -> None: ...

    config = uvicorn_config(app, settings(GatewaySettings, servers))
    assert config.timeout_keep_alive > max(KEPT_BY_PROXIES.values())
    assert config.timeout_keep_alive > 2 * OutgoingLimits().idle_seconds  # of the clients of our own


async def test_a_stop_does_not_wait_for_idle_connections(servers: Servers) -> None:
    async with open_database(servers):
        port = free_port()
    process = await start_process(servers, port)
    try:
        await wait_until(lambda: answers_requests(port), START_SECONDS)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
        process.terminate()
        async with asyncio.timeout(IDLE_SECONDS / 2):
            assert await reader.read() == b""
            await process.communicate()
        writer.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_the_process_serves_https_with_a_certificate(servers: Servers, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *name]
    making = await asyncio.create_subprocess_exec(*openssl, "-keyout", key, "-out", cert, stderr=DEVNULL)
    assert await making.wait() == 0
    async with open_database(servers):
        port = free_port()
    tls = {"CALLBOARD_TLS_CERT": str(cert), "CALLBOARD_TLS_KEY": str(key)}
    process = await start_process(servers, port, **tls)
    try:
        trusting = ssl.create_default_context(cafile=cert)
        async with httpx.AsyncClient(verify=trusting, timeout=60) as client:

            async def answers() -> bool:
                try:
                    return (await client.get(f"https://127.0.0.1:{port}/readyz")).status_code == 200
                except httpx.ConnectError:
                    return False

            await wait_until(answers, START_SECONDS)
            assert (await client.get(f"https://127.0.0.1:{port}/profile")).status_code == 401
    finally:
        process.terminate()
        _, logged = await process.communicate()
    assert process.returncode in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in logged.splitlines()]
    assert [line["status"] for line in lines if line.get("route") == "/profile"] == [401]
