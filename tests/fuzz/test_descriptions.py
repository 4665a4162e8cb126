"""Whatever is sent, the answer is one that the description of the route announces, and never a 500."""

import time
from collections.abc import Mapping

import pytest

from gateway.routes import load_routes
from tests.architecture.repository import module
from tests.fuzz.conftest import url_of
from tests.fuzz.fuzzing import Values, fuzz
from tests.support.machine import SERVICES, Machine

SCOPES = ("roblox", "discord", "operator")
ROUTES = {f"{route.method} {route.path}": route for route in load_routes().all}


@pytest.fixture(params=[15, pytest.param(100, marks=pytest.mark.long)])
def examples(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
async def values(park: Machine) -> Values:
    guests = [person.id for person in await park.people(20, "Guest")]
    return {
        "id": guests,
        "user": guests,
        "rankid": [0, 10, 20],
        "username": [person.username for person in await park.people(2, "Cast Member")],
        "certification": ["tot", "char"],
        "moderator": ["400000000000000004"],
        "place": [1001, 1002, 1003],
        "server": ["server-1"],
        "duration": [60, 3600.5, 90_000],
        "Idempotency-Key": ["the-first", "the-second"],
        "ended_at": [int(time.time()) - 4000],
        "now": [int(time.time())],
    }


@pytest.mark.parametrize("scope", SCOPES)
def test_every_answer_to_a_key_is_as_described(
    park: Machine, values: Values, scope: str, examples: int
) -> None:
    found = fuzz(url_of(park, "gateway"), {"x-api-key": park.keys[scope]}, values, examples)
    assert not found.faults, str(found)
    for name, route in ROUTES.items():
        if route.anyone or scope in route.scopes:
            assert 200 in found.statuses[name], name
        else:
            assert found.statuses[name] == {403, 405}, name


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "cb_operator_wrong"}], ids=["no key", "a wrong key"])
def test_every_answer_without_a_key_is_as_described(
    park: Machine, values: Values, headers: Mapping[str, str], examples: int
) -> None:
    found = fuzz(url_of(park, "gateway"), headers, values, examples)
    assert not found.faults, str(found)
    for name, route in ROUTES.items():
        assert found.statuses[name] == ({404, 405} if route.anyone else {401, 405}), name


@pytest.mark.parametrize("service", SERVICES)
def test_every_answer_of_a_service_is_as_it_describes_it(
    park: Machine, values: Values, service: str, examples: int
) -> None:
    headers = {"x-callboard-token": park.servers.internal_token}
    found = fuzz(url_of(park, service), headers, values, examples)
    assert not found.faults, str(found)
    routers = [part.router for name in ("api", "internal") if (part := module(service, name))]
    offered = {
        f"{method} {route.path}" for router in routers for route in router.routes for method in route.methods
    }
    assert set(found.statuses) == offered
    unknown = {"GET /applications/{token}"}
    assert {name for name, statuses in found.statuses.items() if 200 in statuses} == offered - unknown
