"""What a status page is told."""

import pytest

from tests.gateway.builders import echoes, open_gateway
from tests.support import Servers

ALL_UP = dict.fromkeys(("accounts", "applications", "certifications", "shifts"), "up")


async def test_anyone_learns_that_every_service_is_up(servers: Servers) -> None:
    async with open_gateway(servers, echoes()) as client:
        response = await client.get("/status")
    assert (response.status_code, response.json()) == (200, {"status": "up", "services": ALL_UP})


async def test_a_service_that_is_away_is_down_and_the_answer_503(servers: Servers) -> None:
    apps = echoes()
    del apps["shifts"]
    async with open_gateway(servers, apps, upstreams={"shifts": ["http://127.0.0.1:1"]}) as client:
        response = await client.get("/status")
    assert response.status_code == 503
    assert response.json() == {"status": "degraded", "services": ALL_UP | {"shifts": "down"}}


async def test_however_many_ask_a_service_is_asked_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.status._KEEP_SECONDS", 600.0)
    apps = echoes()
    async with open_gateway(servers, apps) as client:
        for _ in range(20):
            await client.get("/status")
    assert [scope["path"] for scope in apps["accounts"].seen] == ["/readyz"]
