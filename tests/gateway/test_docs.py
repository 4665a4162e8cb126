"""One description of exactly the public routes."""

import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from certifications.main import SERVICE as CERTIFICATIONS
from certifications.settings import CertificationsSettings
from common.app import create_app
from common.outgoing.local import Apps
from gateway.routes import load_routes
from tests.gateway.builders import Echo, echoes, open_gateway
from tests.support import Servers, settings, wait_until

ROUTES = load_routes()
PUBLIC = {(route.method.lower(), route.path) for route in ROUTES.all}

ACCOUNTS = {
    "paths": {
        "/profile": {
            "get": {
                "summary": "Profile",
                "description": "Who <b>this</b> is & more.",
                "parameters": [
                    {"name": "id", "in": "query", "required": False, "schema": {"type": "integer"}}
                ],
                "responses": {
                    "200": {
                        "description": "Found",
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Person"}}},
                    },
                    "404": {"description": "couldn't find user"},
                },
            },
            "delete": {"summary": "Not public"},
        },
        "/internal/member": {"get": {"summary": "Not public either"}},
    },
    "components": {
        "schemas": {
            "Person": {
                "type": "object",
                "properties": {
                    "friends": {"type": "array", "items": {"$ref": "#/components/schemas/Person"}},
                    "rank": {"$ref": "#/components/schemas/Rank"},
                },
            },
            "Rank": {"type": "string"},
            "Unused": {"type": "string"},
        }
    },
}


@pytest.fixture(scope="module")
async def client(servers: Servers) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in front of a service that is there, one that only echoes, and two that are away."""
    certifications = create_app(CERTIFICATIONS, settings(CertificationsSettings, servers))
    apps: Apps = {
        "accounts": Echo("accounts", ACCOUNTS),
        "certifications": certifications,
        "shifts": Echo("shifts", {}),
    }
    upstreams = {"applications": ["http://127.0.0.1:1"]}
    async with open_gateway(servers, apps, upstreams=upstreams) as opened:
        yield opened


async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    assert response.status_code == 200
    described: dict[str, Any] = response.json()
    return described


async def test_it_describes_exactly_the_public_routes_whoever_is_away(client: httpx.AsyncClient) -> None:
    paths = (await document(client))["paths"]
    assert {(method, path) for path, methods in paths.items() for method in methods} == PUBLIC
    text = json.dumps(paths)
    assert "Not public" not in text and "internal" not in text
    assert paths["/application/approve"]["post"]["description"] == (
        "applications does not describe this route at present."
    )


async def test_it_is_valid_openapi(client: httpx.AsyncClient) -> None:
    described = await document(client)
    OpenAPI.model_validate(described)
    names = [name for part in described["components"].values() for name in part]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)


async def test_a_service_describes_its_own_routes(client: httpx.AsyncClient) -> None:
    grant = (await document(client))["paths"]["/certification/grant"]["post"]
    assert grant["description"] == "Grant a certification to a member whose rank allows it."
    names = [one["name"] for one in grant["parameters"]]
    assert names == ["id", "username", "discord", "certification", "moderator", "Idempotency-Key"]
    assert grant["tags"] == ["certifications"]
    schema = grant["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/certifications.ChangeAnswer"}


async def test_every_reference_leads_to_a_schema_and_no_schema_is_there_for_nothing(
    client: httpx.AsyncClient,
) -> None:
    described = await document(client)
    schemas = set(described["components"]["schemas"])
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert references == schemas
    assert schemas == {"Error", "accounts.Person", "accounts.Rank", "certifications.ChangeAnswer"}
    person = described["components"]["schemas"]["accounts.Person"]["properties"]
    assert person["friends"]["items"] == {"$ref": "#/components/schemas/accounts.Person"}


async def test_every_route_says_which_keys_it_takes_and_which_errors_it_answers(
    client: httpx.AsyncClient,
) -> None:
    described = await document(client)
    schemes = described["components"]["securitySchemes"]
    assert {(one["type"], one.get("name") or one["scheme"], one.get("in")) for one in schemes.values()} == {
        ("apiKey", "key", "query"),
        ("apiKey", "x-api-key", "header"),
        ("http", "bearer", None),
    }
    for route in ROUTES.all:
        operation = described["paths"][route.path][route.method.lower()]
        errors = {"400", "429", "503"} | (set() if route.anyone else {"401", "403"})
        assert errors | {"200"} <= set(operation["responses"])
        assert operation["security"] == ([] if route.anyone else [{name: []} for name in schemes])
    assert described["paths"]["/profile"]["get"]["responses"]["404"] == {"description": "couldn't find user"}


async def test_an_error_of_the_service_and_one_of_the_gateway_are_described_together(
    client: httpx.AsyncClient,
) -> None:
    grant = (await document(client))["paths"]["/certification/grant"]["post"]["responses"]
    assert grant["403"]["description"] == (
        "the key is good, but not for this, or not from here; "
        "or the member's rank is below the certification's minimum rank"
    )
    assert grant["400"]["description"].count("malformed") == 1
    for status in ("400", "403", "404", "429", "500", "504"):
        schema = grant[status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Error"}


async def test_the_headers_of_an_answer_are_described(client: httpx.AsyncClient) -> None:
    paths = (await document(client))["paths"]
    grant, text = paths["/certification/grant"]["post"], paths["/applications/{token}"]["get"]
    of_keys = {"X-Request-Id", "RateLimit", "RateLimit-Policy"}
    assert set(grant["responses"]["200"]["headers"]) == {*of_keys, "Idempotent-Replayed"}
    assert set(text["responses"]["200"]["headers"]) == {"X-Request-Id"}
    profile = paths["/profile"]["get"]["responses"]["200"]["headers"]
    assert profile.keys() - grant["responses"]["200"]["headers"].keys() == {"Cache-Control"}
    assert "Cache-Control: no-store" in (await client.get("/docs")).text
    for status in ("429", "503", "504"):
        assert grant["responses"][status]["headers"]["Retry-After"]["required"]


async def test_what_only_the_gateway_asks_for_is_described_too(client: httpx.AsyncClient) -> None:
    paths = (await document(client))["paths"]

    def parameters(method: str, path: str) -> set[tuple[str, str, bool]]:
        return {(one["in"], one["name"], one["required"]) for one in paths[path][method]["parameters"]}

    assert parameters("get", "/connect") == {("header", "Roblox-Id", True)}
    assert parameters("post", "/log") == {("header", "Roblox-Id", True), ("header", "Idempotency-Key", False)}
    assert parameters("get", "/applications/{token}") == {("path", "token", True)}


async def test_a_service_that_comes_back_is_described_within_seconds(servers: Servers) -> None:
    accounts = Echo("accounts", {})
    async with open_gateway(servers, {**echoes(), "accounts": accounts}) as client:

        async def is_described() -> bool:
            return "summary" in (await document(client))["paths"]["/profile"]["get"]

        assert not await is_described()
        accounts.document = ACCOUNTS
        await wait_until(is_described)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "h2":
            self.headings.append("")
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "h2" in self.open:
            self.headings[-1] += data


async def test_the_page_shows_every_public_route_and_loads_nothing_from_elsewhere(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = _Page()
    page.feed(response.text)
    assert page.open == []
    assert page.headings == [f"{route.method} {route.path}" for route in ROUTES.all]
    assert page.links == ["openapi.json"]
    assert not {"script", "img", "link", "iframe"} & page.tags
    assert "Who &lt;b&gt;this&lt;/b&gt; is &amp; more." in response.text
    assert response.text.count("a limit is reached") == 1
    assert "the member&#x27;s rank is below" in response.text
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


async def test_the_docs_need_no_key_and_take_no_other_method(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200
        response = await client.post(path)
        assert (response.status_code, response.text) == (
            405,
            '{"status":"error","message":"method not allowed"}',
        )
