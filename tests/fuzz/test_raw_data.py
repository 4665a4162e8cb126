"""Bytes that no client library would send, in every parameter, body and header that is described."""

import asyncio
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fuzz.conftest import url_of
from tests.support.machine import SERVICES, Machine

SAMPLES = {
    "id": "1",
    "user": "1",
    "username": "ParkCast",
    "discord": "300000000000000003",
    "place": "1001",
    "training": "false",
    "fresh": "true",
    "certification": "tot",
    "moderator": "400000000000000004",
    "duration": "60",
    "ended_at": "1700000000",
    "now": "1700000000",
}
"""A value of each parameter but `server`, by which requests are counted."""
_servers = itertools.count()


def sample(name: str) -> str:
    """A value of this parameter."""
    return f"server-{next(_servers)}" if name == "server" else SAMPLES[name]


NOT_THE_PARAMETER = [
    "{name}[]={value}",
    "{name}[0]={value}",
    "{name}[$ne]=",
    "{name}[$gt]=0",
    "{name}%5B%5D={value}",
    "{name}%5B$ne%5D=x",
    "{name}.$ne={value}",
    "{name}%00={value}",
    "{name}%20={value}",
    "+{name}={value}",
    "{name}",
    "{name}=",
    "&&&=&={value}&",
]
REPEATED = [
    "{name}={value}&{name}={value}",
    "{name}={value}&{name}=",
    "{name}=&{name}={value}",
    "{name}={value}&{encoded}={value}",
    "{name}={value}&{name}[]={value}&{name}={value}",
]
NO_NUMBERS = [
    "9223372036854775808",
    "18446744073709551617",
    "-9223372036854775809",
    "9" * 400,
    "9" * 30_000,
    "1e400",
    "NaN",
    "Infinity",
    "1%00",
    "%001",
    "1%0A",
    "1%C2%A0",
    "%D9%A1",
    "0x7fffffff",
    "1;{name}=2",
    "[1]",
    "%7B%22$ne%22%3A%22%22%7D",
]
ODD_VALUES = [
    *NO_NUMBERS,
    "%00",
    "a%00b",
    "%FF",
    "%C0%80",
    "%ED%A0%80",
    "%F4%90%80%80",
    "%F0%9F%98",
    "%",
    "%1",
    "%zz",
    "%u0041",
    "%25%30%30",
    "\xff\xfe",
    "\xed\xa0\x80",
    "%E2%80%AE%EF%BF%BF",
    "$where",
    "%24ne",
    "a" * 101,
    "%F0%9F%98%80" * 100,
    "../../internal",
    "%0D%0AX-Api-Key:%20x",
]


@dataclass(frozen=True)
class Door:
    """One described route, as it is called here; `is_behind` the gateway, where only HTTP comes."""

    is_behind: bool
    url: str
    headers: str
    method: str
    path: str
    operation: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        """Those of the query, by name."""
        return {one["name"]: one for one in self.operation.get("parameters", ()) if one["in"] == "query"}

    def query(self, **changed: str) -> str:
        """A query with all that is required, and these parts in place of the parameters that they are for."""
        needed = [name for name, one in self.parameters.items() if one["required"]]
        if not needed and not changed and "id" in self.parameters:
            needed = ["id"]  # one of several that exclude each other
        return "&".join(({name: f"{name}={sample(name)}" for name in needed} | changed).values())

    async def ask(self, query: str, *, headers: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer, which must be one that is described, in the shape of all errors."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{self.method} {self.path}?{query} HTTP/1.1\r\nHost: x\r\n{self.headers}{headers}{length}\r\n"
        status, answer = await exchange(self.url, head.encode("latin-1") + body)
        shown = f"{self.method} {self.path}?{query[:300]} {headers[:300]} {body[:300]!r}: {status} {answer!r}"
        assert status < 500, shown
        assert str(status) in self.operation["responses"] or status in (404, 405), shown
        if status >= 400 and not (answer == NO_HTTP and self.is_behind):
            read = json.loads(answer)
            assert read["status"] == "error" and ("message" in read or "discord" in read), shown
        return status, answer


async def exchange(url: str, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to these bytes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(60):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)\r\n", head)
            body = await (reader.readexactly(int(length[1])) if length else reader.read())
        return int(head.split(b" ", 2)[1]), body
    finally:
        writer.close()


@pytest.fixture(params=["gateway", *SERVICES])
async def doors(request: pytest.FixtureRequest, park: Machine) -> list[Door]:
    """Every route that the gateway, or a service, describes."""
    url = url_of(park, request.param)
    if request.param == "gateway":
        headers = {scope: f"x-api-key: {park.keys[scope]}\r\nRoblox-Id: 1001\r\n" for scope in park.keys}
    else:
        headers = {"roblox": f"x-callboard-token: {park.servers.internal_token}\r\n"}
    ask = f"GET /openapi.json HTTP/1.1\r\nHost: x\r\n{headers['roblox']}\r\n"
    _, page = await exchange(url, ask.encode())
    return [
        Door(request.param != "gateway", url, _fitting(headers, operation), method.upper(), path, operation)
        for path, methods in json.loads(page)["paths"].items()
        for method, operation in methods.items()
    ]


def _fitting(headers: Mapping[str, str], operation: Mapping[str, Any]) -> str:
    """The headers with a key that may call this."""
    callers = operation.get("x-callers", "roblox")
    return next((lines for scope, lines in headers.items() if scope in callers), headers["roblox"])


def parameters(doors: list[Door]) -> Iterator[tuple[Door, str, Mapping[str, Any]]]:
    for door in doors:
        for name, described in door.parameters.items():
            yield door, name, described


async def test_what_only_looks_like_a_parameter_is_none(doors: list[Door]) -> None:
    for door, name, described in parameters(doors):
        for form in NOT_THE_PARAMETER:
            query = door.query(**{name: form.format(name=name, value=sample(name))})
            status, answer = await door.ask(query)
            if described["required"] or name in ("id", "username", "discord"):
                assert (status, b"invalid query" in answer) == (400, True), (door.path, query, answer)


async def test_a_parameter_that_comes_twice_is_refused_however_it_is_written(doors: list[Door]) -> None:
    for door, name, _ in parameters(doors):
        encoded = "".join(f"%{ord(letter):02x}" for letter in name)
        for form in REPEATED:
            query = door.query(**{name: form.format(name=name, value=sample(name), encoded=encoded)})
            status, answer = await door.ask(query)
            assert (status, b"more than once" in answer) == (400, True), (door.path, query, answer)


async def test_no_value_is_too_odd_to_be_answered(doors: list[Door]) -> None:
    for door, name, described in parameters(doors):
        for value in ODD_VALUES:
            query = door.query(**{name: f"{name}={value.format(name=name)}"})
            status, answer = await door.ask(query)
            if described["schema"]["type"] in ("integer", "boolean") and value in NO_NUMBERS:
                assert (status, b"invalid query" in answer) == (400, True), (door.path, query, answer)


NO_HTTP = b"Invalid HTTP request received."
"""What uvicorn answers itself."""

NESTED = b"[" * 90_000
BODIES = [
    (kind, body)
    for kind, bodies in {
        "application/json": [
            b"",
            b"null",
            b"0",
            b'"q1"',
            b"[]",
            b"[[]]",
            b"{",
            b"{}",
            b"\xff\xfe{}",
            b"\xef\xbb\xbf{}",
            b'{"q1": "\xff"}',
            b'{"q1": "\\u0000", "q2": "\\ud800", "q3": "a\\udfff", "q4": "\\ud83d\\ude00"}',
            b'{"q1": "a", "q1": "b", "q2": "c", "q3": "d", "q4": "e"}',
            b'{"q1": ["a"], "q2": {"$ne": ""}, "q3": 1, "q4": null}',
            b'{"q1": NaN, "q2": 1e999, "q3": -0, "q4": true}',
            b'{"user": NaN, "rankid": 10}',
            b'{"user": 1, "rankid": 1e999}',
            b'{"user": 1, "rankid": %s}' % (b"9" * 400),
            b'{"user": 1, "rankid": %s}' % (b"9" * 5000),
            b'{"user": true, "rankid": false}',
            b'{"user": {"$ne": 0}, "rankid": [10]}',
            b'{"user": 1, "rankid": 10, "$set": {}}',
            b'{"q1": ' + NESTED,
            NESTED,
            '{"q1": "a"}'.encode("utf-16"),
        ],
        "application/x-www-form-urlencoded": [
            b"",
            b"%",
            b"=&=&=",
            b"q1[]=a&q2[$ne]=&q3=c&q4=d",
            b"q1=%00&q2=%01&q3=%1b&q4=%7f",
            b"q1=%ff&q2=b&q3=c&q4=d",
            b"q1=\xff&q2=b&q3=c&q4=d",
            b"q1=a&q1=b&q2=c&q3=d&q4=e",
            b"&" * 90_000,
            b"q=1&" * 20_000,
        ],
        "multipart/form-data": [b"", b"--\r\n\r\n"],
        "multipart/form-data; boundary=x": [
            b"",
            b"--x--\r\n",
            b"--x\r\n\r\na\r\n--x--\r\n",
            b'--x\r\nContent-Disposition: form-data; name="q1"\r\n\r\na',
            b'--x\r\nContent-Disposition: form-data; name="q1"; filename="f"\r\n\r\na\r\n--x--\r\n',
            b'--x\r\nContent-Disposition: form-data; name="q1\x00"\r\n\r\n\x00\xff\r\n--x--\r\n',
            b'--x\r\nContent-Disposition: form-data; name="q"\r\n\r\na\r\n' * 1500 + b"--x--\r\n",
        ],
        "multipart/form-data; boundary=x; charset=no-such": [
            b'--x\r\nContent-Disposition: form-data; name="q1"\r\n\r\n\xff\r\n--x--\r\n'
        ],
        "application/json; charset=utf-7": [b'{"q1": "+AAA-"}'],
        "application/jsonp": [b"{}"],
        "": [b"{}"],
    }.items()
    for body in bodies
]


async def test_no_body_is_too_odd_to_be_answered(doors: list[Door]) -> None:
    for door in doors:
        for kind, body in BODIES:
            await door.ask(door.query(), headers=f"Content-Type: {kind}\r\n", body=body)


@pytest.mark.parametrize(
    "lines",
    [
        "Idempotency-Key: \xff\xfe\r\n",
        'Idempotency-Key: {"$ne": 1}\r\n',
        f"Idempotency-Key: {'k' * 256}\r\n",
        "Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
        "Idempotency-Key:\r\n",
        "Roblox-Id: 1001\r\n",
        "X-Request-Id: \xff\r\n",
        f"X-Request-Id: {'r' * 5000}\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Type: \xff\r\n",
        "Cookie: \xff=\x01\r\n",
        f"X-Forwarded-For: {'1.2.3.4, ' * 1000}\r\n",
        "Accept: */*;q=\xff\r\nAccept-Language: \xff\r\n",
    ],
    ids=lambda lines: ascii(lines[:30]),
)
async def test_no_header_is_too_odd_to_be_answered(doors: list[Door], lines: str) -> None:
    for door in doors:
        await door.ask(door.query(), headers=lines)


@pytest.mark.parametrize(
    "token",
    [
        "%00",
        "a%00",
        "%FF",
        "%ED%A0%80",
        "\xff",
        "..",
        "%2e%2e",
        "a%2Fb",
        "a/b",
        "a//b",
        "%",
        "%zz",
        "$ne",
        "[$ne]",
        "*",
        "a" * 30_000,
        "%F0%9F%98%80",
    ],
    ids=lambda token: ascii(token[:20]),
)
async def test_a_token_that_never_was_leads_nowhere(park: Machine, token: str) -> None:
    headers = f"x-callboard-token: {park.servers.internal_token}\r\n"
    for name in ("gateway", "applications"):
        head = f"GET /applications/{token} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
        status, body = await exchange(url_of(park, name), head.encode("latin-1"))
        assert status in (400, 404), (name, body)
        assert name != "gateway" or json.loads(body)["status"] == "error"


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_tells_nothing_without_the_internal_token(park: Machine, service: str) -> None:
    refusal = b'{"status":"error","message":"invalid token"}'
    for path in ("/openapi.json", "/internal/member?id=1", "/internal/rank", "/profile?id=1", "/nowhere"):
        for token in (
            "",
            "x-callboard-token:\r\n",
            "x-callboard-token: \xff\r\n",
            "x-callboard-token: wrong\r\n",
        ):
            for method in ("GET", "POST", "OPTIONS"):
                head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{token}\r\n"
                answer = await exchange(url_of(park, service), head.encode("latin-1"))
                assert answer == (401, refusal), (method, path, token)
