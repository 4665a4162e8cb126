"""Targets, hosts and methods as they stand on the wire: a client library would tidy them up."""

import pytest

from gateway.routes import load_routes
from tests.gateway.builders import make_key
from tests.gateway.raw import LAST, Gate, statuses
from tests.support import Servers

NOT_FOUND = b'{"status":"error","message":"not found"}'
METHOD_NOT_ALLOWED = b'{"status":"error","message":"method not allowed"}'
INVALID_REQUEST = b'{"status":"error","message":"invalid request"}'

EVERY_METHOD = (  # noqa: SIM905 - as a list it would fill a page
    "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK "
    "BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE "
    "MKCALENDAR LINK UNLINK SOURCE QUERY"
).split()


@pytest.mark.parametrize(
    "path",
    [
        "/./profile",
        "/x/../profile",
        "/profile/.",
        "/profile/..",
        "/profile/x/..",
        "/applications/../profile",
        "/applications/%2e%2e/profile",
        "/applications/%252e%252e/profile",
        "/..;/profile",
        "//profile",
        "///profile",
        "//other.example/profile",
        "/profile/",
        "/profile//",
        "/profile;x=1",
        "/profile;",
        "/profile&id=1",
        "/profile.json",
        "/profile%3Fid=1",
        "/profile%23",
        "/%70rofile",
        "/profile%2f",
        "/%2fprofile",
        "/profile%20",
        "/profile%0d%0aRoblox-Id:%201",
        "/profile%00",
        "/profile%",
        "/profile%zz",
        "/\\profile",
        "/profile\\",
        "/Profile",
        "/PROFILE",
        "/profile" + "x" * 60_000,
        "/applications%2fAAAA",
        "/applications/",
        "/applications/.",
        "/applications/..",
        "/applications/AAAA/",
        "/applications/AAAA;x",
        "/applications/a%00",
        "/applications/a%5cb",
        "/applications/a\\..\\..\\profile",
        "/applications/a%25",
        "/applications/%41",
        "/applications/*",
        "/internal/member",
        "/internal%2fmember",
        "/applications/..%2finternal%2fmember",
        "/metrics",
        "/healthz/",
        "/healthz;x",
        "/healthz%20",
        "/healthz/../profile",
        "/%68ealthz",
        "/HEALTHZ",
    ],
    ids=lambda path: path[:40],
)
async def test_a_path_that_is_not_in_its_one_form_is_404(gate: Gate, path: str) -> None:
    for method in ("GET", "POST"):
        first, last = await gate.ask(gate.request(path, method=method) + LAST)
        assert (first.status, first.body, last.status) == (404, NOT_FOUND, 200)
    assert gate.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "http://x/profile",
        "HTTP://x/profile",
        "https://x/profile",
        "ftp://x/profile",
        "http://other.example/profile?id=1",
        "http://user:pass@x/profile",
        "http://[::1]/profile",
        "http:///profile",
        "http:/profile",
        "http:profile",
        "http://x",
        "http://x?id=1",
        "x:443",
        "*",
        "profile",
        "./profile",
        "?id=1",
        "#",
        "\\profile",
        "%2fprofile",
        "/profile#",
        "/profile#x",
        "/profile?id=1#x",
        "/x#/profile",
        "/profile\0",
        "/profile?\0",
        "/profile?\x7f",
        "/pro file",
        "/profile\tHTTP/1.1 x",
    ],
)
async def test_a_target_that_is_more_or_less_than_path_and_query_is_400(gate: Gate, target: str) -> None:
    for method in ("GET", "OPTIONS", "CONNECT"):
        (answer,) = await gate.ask(gate.request(target, method=method) + LAST)
        assert (answer.status, answer.body) == (400, INVALID_REQUEST)
        assert answer.headers["connection"] == "close"
    assert gate.seen == []


@pytest.mark.parametrize("target", ["/" + "x" * 70_000, "/profile?id=" + "1" * 70_000])
async def test_a_target_beyond_64_kib_is_431(gate: Gate, target: str) -> None:
    assert statuses(await gate.ask(gate.request(target) + LAST)) == [431]


@pytest.mark.parametrize(
    ("target", "query"),
    [
        ("/profile?", ""),
        ("/profile??", "?"),
        ("/profile?id=1?", "id=1?"),
        ("/profile?/../connect", "/../connect"),
        ("/profile?&&id=1&", "&&id=1&"),
        ("/profile?id[]=1&id[$ne]=2&id", "id[]=1&id[$ne]=2&id"),
        ("/profile?id=%00%0d%0aX:%20y", "id=%00%0d%0aX:%20y"),
        ("/profile?id=1;username=x", "id=1;username=x"),
        ("/profile?%", "%"),
    ],
)
async def test_a_query_reaches_the_service_as_it_came(gate: Gate, target: str, query: str) -> None:
    assert statuses(await gate.ask(gate.request(target) + LAST)) == [200, 200]
    assert [(seen["path"], seen["query"]) for seen in gate.seen] == [("/profile", query)]


async def test_a_target_beyond_ascii_is_400(gate: Gate) -> None:
    for target in ("/pröfile", "/profile?username=Zoë"):
        assert statuses(await gate.ask(gate.request(target) + LAST)) == [400]


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        ("1.1", ["x"], 200),
        ("1.1", [""], 200),
        ("1.1", [], 400),
        ("1.1", ["x", "x"], 400),
        ("1.1", ["x", "other.example"], 400),
        ("1.0", [], 200),
        ("1.0", ["x"], 200),
        ("1.0", ["x", "x"], 400),
        ("0.9", [], 400),
        ("2.0", [], 400),
        ("1.2", ["x"], 400),
        ("11.1", ["x"], 400),
        ("1,1", ["x"], 400),
    ],
)
async def test_a_request_names_one_host(gate: Gate, version: str, hosts: list[str], status: int) -> None:
    lines = [f"GET /profile HTTP/{version}", f"x-api-key: {gate.key}", "Connection: close"]
    lines += [f"Host: {host}" for host in hosts]
    assert statuses(await gate.ask("\r\n".join((*lines, "", "")).encode())) == [status]
    assert len(gate.seen) == (status == 200)


@pytest.mark.parametrize(
    "host",
    ["other.example", "other.example/profile?x=", "a?b", "x/../internal", "[::1", "a:b:c", '"', "a, b"],
)
async def test_the_host_decides_nothing(gate: Gate, host: str) -> None:
    request = gate.request("/profile?id=1").replace(b"Host: x", f"Host: {host}".encode())
    assert statuses(await gate.ask(request + LAST)) == [200, 200]
    (seen,) = gate.seen
    assert (seen["service"], seen["path"], seen["query"]) == ("accounts", "/profile", "id=1")
    assert not [value for _, value in seen["headers"] if host in value]


@pytest.mark.parametrize("method", EVERY_METHOD)
async def test_a_method_that_a_route_does_not_have_is_405_before_the_key_is_looked_at(
    gate: Gate, method: str
) -> None:
    for route in load_routes().all:
        if method != route.method:
            path = route.path.replace("{token}", "AAAA")
            for key in ("", "x-api-key: wrong\r\n", f"x-api-key: {gate.key}\r\n"):
                request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}\r\n"
                (answer,) = await gate.ask(request.encode())
                assert (answer.status, answer.headers["allow"]) == (405, route.method.lower())
                assert answer.body == (b"" if method == "HEAD" else METHOD_NOT_ALLOWED)
    assert gate.seen == []


async def test_a_word_that_is_no_method_is_400(gate: Gate) -> None:
    for method in ("get", "Get", "gET", "FOO", "G", "GETS", "GET,POST", "", " GET", "G\0ET", "PRI"):
        assert statuses(await gate.ask(gate.request("/profile", method=method) + LAST)) == [400], method
    assert gate.seen == []


async def test_no_header_turns_a_method_or_a_path_into_another(gate: Gate) -> None:
    for header in (
        "X-HTTP-Method-Override: POST",
        "X-HTTP-Method: POST",
        "X-Method-Override: POST",
        "X-Original-URL: /application/approve",
        "X-Rewrite-URL: /application/approve",
        "X-Forwarded-Prefix: /application",
        "X-Forwarded-Uri: /application/approve",
    ):
        answers = await gate.ask(gate.request("/application/approve?_method=POST", header) + LAST)
        assert statuses(answers) == [405, 200]
        answers = await gate.ask(gate.request("/profile", header) + LAST)
        assert statuses(answers) == [200, 200]
    assert {(seen["method"], seen["path"]) for seen in gate.seen} == {("GET", "/profile")}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("place=1001", 200),
        ("pl%61ce=1001", 200),
        ("Place=1002&place=1001&place[]=1002&place[0]=1002", 200),
        ("place=1001&place=1002", 400),
        ("place=1002&place=1001", 400),
        ("place=1001&pl%61ce=1002", 400),
        ("place=1001&place=", 400),
        ("place=1001;place=1002", 400),
        ("place=1001%26place=1002", 400),
        ("place=1001,1002", 400),
        ("place=+1001", 400),
        ("place=1001%00", 400),
        ("place=1001%0a", 400),
        ("place=%D9%A1%D9%A0%D9%A0%D9%A1", 400),
        ("place[]=1001", 400),
        ("place=1001.0", 400),
        ("place=1002", 403),
    ],
)
async def test_a_place_can_be_given_in_one_way(gate: Gate, servers: Servers, query: str, status: int) -> None:
    key = await make_key(servers, "roblox", places=[1001])
    request = f"GET /connect?{query} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nRoblox-Id: 1001\r\n\r\n"
    assert statuses(await gate.ask(request.encode() + LAST)) == [status, 200]
    assert len(gate.seen) == (status == 200)
