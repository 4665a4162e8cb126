"""`routes.toml` is the only place that says what is public; a mistake in it stops the start."""

import tomllib
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from gateway.errors import NotFound
from gateway.routes import ROUTES, Route, Routes, load_routes

GOOD = """
[[route]]
method = "GET"
path = "/x"
service = "accounts"
scopes = ["roblox"]
"""


def test_the_public_routes_are_those_of_the_contract() -> None:
    every = {"roblox", "discord", "operator"}
    people = {"discord", "operator"}
    assert {
        (route.method, route.path): (set(route.scopes), route.roblox_only) for route in load_routes().all
    } == {
        ("GET", "/connect"): ({"roblox"}, True),
        ("GET", "/profile"): (every, False),
        ("POST", "/certification/grant"): (people, False),
        ("POST", "/certification/revoke"): (people, False),
        ("POST", "/application/approve"): (people, False),
        ("POST", "/application/upload"): (every, False),
        ("GET", "/applications/{token}"): (set(), False),
        ("POST", "/log"): ({"roblox"}, True),
    }


def test_what_has_an_idempotency_key_may_be_sent_again() -> None:
    assert [route.path for route in load_routes().all if route.idempotent] == [
        "/certification/grant",
        "/certification/revoke",
        "/application/approve",
        "/application/upload",
        "/log",
    ]


def test_every_key_of_the_file_is_explained_in_it() -> None:
    text = ROUTES.read_text("utf-8")
    explained = text[: text.index("[[route]]")]
    for name in Route.model_fields:
        assert f"\n# {name}" in explained or f", {name} " in explained, name
    assert {key for entry in tomllib.loads(text)["route"] for key in entry} <= set(Route.model_fields)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"expected \[\[route\]\] tables"),
        ("route = 1", r"expected \[\[route\]\] tables"),
        (GOOD + "[other]\n", r"expected \[\[route\]\] tables and nothing else"),
        ("[[route", "not valid TOML"),
        (GOOD.replace("GET", "FETCH"), "route 1: method: "),
        (GOOD + GOOD.replace("/x", "x"), "route 2: path: "),
        (GOOD.replace("/x", "/x/"), "route 1: path: "),
        (GOOD.replace("/x", "/x/../y"), "route 1: path: "),
        (GOOD.replace("/x", "/internal/x"), "route 1: path: "),
        (GOOD.replace("/x", "/healthz"), "route 1: path: "),
        (GOOD.replace('service = "accounts"', ""), "route 1: service: Field required"),
        (GOOD.replace("accounts", "http://accounts"), "route 1: service: "),
        (GOOD.replace('["roblox"]', '["admin"]'), "route 1: scopes: "),
        (GOOD.replace('["roblox"]', "[]"), "route 1: expected either scopes or anyone = true"),
        (GOOD + "anyone = true", "route 1: expected either scopes or anyone = true"),
        (
            GOOD.replace('["roblox"]', '["roblox", "operator"]') + "roblox_only = true",
            "route 1: roblox_only: ",
        ),
        (GOOD + "max_body = 1", "route 1: max_body: "),
        (GOOD + "seconds = 0", "route 1: seconds: "),
        (GOOD + 'rate = "often"', "route 1: rate: expected a number per s, min, h or day"),
        (GOOD + 'rate_by = "server"', "route 1: rate_by: expected a rate too"),
        (GOOD + GOOD, "route 2: GET /x is there already"),
    ],
)
def test_a_mistake_is_named_with_its_route(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigurationError, match=reason) as caught:
        load_routes(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: cannot be read"):
        load_routes(tmp_path / "nowhere.toml")


def test_a_path_without_parameters_comes_before_one_with() -> None:
    token = Route(method="GET", path="/x/{token}", service="one", anyone=True)
    literal = Route(method="GET", path="/x/list", service="other", anyone=True)
    routes = Routes([token, literal])
    assert routes.find("/x/list") == ({"GET": literal}, {})
    assert routes.find("/x/lists") == ({"GET": token}, {"token": "lists"})


@pytest.mark.parametrize("path", ["/x/", "/x/a/b", "/x/a.b", "/x/%41", "/x/a\n", "/x/ä", "/y/a", "x/a", ""])
def test_a_parameter_is_one_segment_of_plain_characters(path: str) -> None:
    with pytest.raises(NotFound):
        Routes([Route(method="GET", path="/x/{token}", service="one", anyone=True)]).find(path)
