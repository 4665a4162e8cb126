"""A key is in nothing that a running Callboard writes or shows: not in a log, an error, a metric or a process list."""

import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
from pymongo import AsyncMongoClient

from callboard.servers import free_port
from common.mongo import Document
from common.outgoing.headers import TOKEN_HEADER
from tests.cli.machine import START_SECONDS, Machine, machine
from tests.gateway.builders import served
from tests.gateway.raw import Answer, ask
from tests.support import ROOT, wait_until
from tests.tracing.collector import Collector

SERVICES = ("accounts", "certifications", "applications", "shifts")
BUGS = [
    {"target": "accounts.service:AccountsService.profile", "do": "raise", "name": "of a service", "skip": 0},
    {"target": "gateway.proxy:read_body", "do": "raise", "name": "of the gateway", "skip": 0},
]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path) as one:
        yield one


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """What takes the traces, and its URL."""
    one = Collector()
    async with served(one) as url:
        yield one, url


def requests(key: str) -> Iterator[bytes]:
    """Requests with the key wherever it may stand, and wherever somebody could put it by mistake."""

    def request(line: str, *headers: str, body: str = "") -> bytes:
        lines = [f"{line} HTTP/1.1", "Host: x", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join((*lines, "", body)).encode()

    given = ("x-api-key: " + key, "Roblox-Id: 1001")
    shift = "id=1&place=1001&duration=60&training=false&server=a"
    change = "certification=tot&username=Roblox&moderator=400000000000000004"
    json_type, form_type = "Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded"
    for way, headers in (
        (f"&key={key}", ()),
        (f"&k%65y={quote(key, safe='')}", ()),
        ("", (f"x-api-key: {key}",)),
        ("", (f"Authorization: Bearer {key}",)),
        (f"&key={key}&key={key}x", (f"x-api-key: {key}y",)),
    ):
        yield request(f"GET /profile?id=1{way}", *headers)
        yield request(f"GET /profile?id=x{way}", *headers)
        yield request(f"GET /connect?id=1&place=1001&training=false{way}", "Roblox-Id: 1001", *headers)
        yield request(f"POST /log?{shift}{way}", "Roblox-Id: 1001", *headers)
        yield request(f"POST /certification/grant?{change}{way}", *headers)
        yield request(f"POST /application/approve?id=999&moderator=400000000000000004{way}", *headers)
        yield request(f"POST /application/upload?id=1{way}", *headers, json_type, body="{")
        yield request(f"POST /application/upload?id=1{way}", *headers, body="x" * 200_000)
        yield request(f"DELETE /profile?id=1{way}", *headers)
        yield request(f"GET /nowhere?id=1{way}", *headers)
        yield request(f"GET /healthz?{way}", *headers)
        yield request(f"GET /status?{way}", *headers)
        yield request(f"GET /docs?{way}", *headers)
        yield request(f"GET /profile?id=1{way}#{key}", *headers)
        yield request(f"GET /profile?id=1{way}", *headers, "no header")
        yield request(f"GET /profile?id=1{way}", *headers, "X: " + "x" * 70_000)
        yield request(f"GET /profile?id=1{way}", *headers, "Upgrade: websocket", "Connection: Upgrade")
    for line in (f"GET /{key}", f"GET /profile/{key}", f"{key} /profile"):
        yield request(line)
    for header in (
        "Roblox-Id",
        "Idempotency-Key",
        "X-Request-Id",
        "Cookie",
        "X-Forwarded-For",
        "traceparent",
    ):
        yield request(f"POST /log?{shift}", f"x-api-key: {key}", f"{header}: {key}")
        yield request("GET /profile?id=1", *given, f"{header}: {key}")
    yield request("GET /profile?id=1", *given, f"{key}: x")
    yield request(f"GET /profile?{key}", *given)
    yield request(f"GET /profile?id={key}", *given)
    yield request(f"POST /log?id=1&place={key}&duration={key}", *given)
    for kind, body in ((json_type, f'{{"q1":{{"key":"{key}"}}}}'), (form_type, f"key={key}")):
        yield request("POST /application/upload?id=1", *given, kind, body=body)
    yield f"{key}\r\n\r\n".encode()
    yield b"\x16\x03\x01" + key.encode()


async def make_keys(here: Machine) -> dict[str, str]:
    """Keys of every kind by what they are called here: those of the first start, new, replaced and wrong ones."""

    async def made(*arguments: str) -> str:
        answer = await here.callboard("keys", *arguments, "--json")
        assert answer.status == 0, answer.error
        key: str = json.loads(answer.out)["key"]
        return key

    keys = {name: here.keys()[f"{name.upper()}_KEY"] for name in ("roblox", "discord", "operator")}
    for scope in list(keys):
        keys[f"canary-{scope}"] = await made("create", f"canary-{scope}", "--scope", scope)
    keys["rotated"] = await made("rotate", "canary-discord")
    assert (await here.callboard("keys", "revoke", "canary-discord")).status == 0
    key = keys["canary-roblox"]
    return keys | {"wrong": key[:-1] + "xy"[key[-1] == "x"], "short": key[:-1], "other case": key.swapcase()}


async def shown_by(here: Machine, metrics_port: int) -> list[str]:
    """What the processes, their metrics and the other commands show."""
    listed = here.listed()
    shown = [here.output, json.dumps(listed)]
    token = (here.data_dir / "secrets" / "callboard_internal_token").read_text("utf-8")
    ports = [listed[name]["port"] for name in SERVICES if name in listed]
    async with httpx.AsyncClient(headers={TOKEN_HEADER: token}, timeout=30) as client:
        pages = [await client.get(f"http://127.0.0.1:{port}/metrics") for port in (metrics_port, *ports)]
    assert 'key="canary-roblox"' in pages[0].text
    shown += [page.text for page in pages]
    for entry in listed.values():
        process = psutil.Process(entry["pid"])
        shown += [*process.cmdline(), *process.environ().values()]
    for arguments in (("keys", "list"), ("status",), ("status", "--json")):
        answer = await here.callboard(*arguments)
        assert answer.status == 0
        shown += [answer.out, answer.error]
    return shown


async def crash(here: Machine, name: str) -> None:
    """Let a component crash, and wait until it was started again and the gateway answers."""
    before = here.listed()[name]["pid"]
    psutil.Process(before).send_signal(signal.SIGABRT)

    async def is_back() -> bool:
        now = here.listed().get(name, {"pid": before})["pid"]
        return now != before and await here.knows(here.keys()["ROBLOX_KEY"])

    await wait_until(is_back, START_SECONDS)


@pytest.mark.parametrize("options", [(), ("--processes",)], ids=["one process", "processes"])
async def test_a_key_is_in_nothing_that_a_running_callboard_writes_or_shows(
    here: Machine, tmp_path: Path, collector: tuple[Collector, str], options: tuple[str, ...]
) -> None:
    metrics_port = free_port()
    await here.up(
        *options,
        CALLBOARD_OTLP_ENDPOINT=collector[1],
        CALLBOARD_LOG_LEVEL="DEBUG",
        CALLBOARD_METRICS_PORT=str(metrics_port),
        CALLBOARD_TEST_CHANGES=json.dumps(BUGS),
        CALLBOARD_TEST_FOLDER=str(tmp_path),
        PYTHONPATH=str(ROOT / "tests" / "support" / "changes"),
    )
    mongo_url = (here.data_dir / "secrets" / "callboard_mongo_url").read_text("utf-8")
    async with AsyncMongoClient[Document](mongo_url) as mongodb:
        await mongodb["gateway"].command("profile", 0, slowms=-1)  # mongod logs every command from now on
    gateway, accounts = ("gateway", "accounts") if options else ("callboard", "callboard")
    answers: list[Answer] = []
    keys = await make_keys(here)
    for name in ("canary-roblox", "canary-operator", "canary-discord", "wrong"):
        for request in requests(keys[name]):
            answers += await ask(here.url, request)
    for bug in (f"{accounts}: of a service", f"{gateway}: of the gateway"):
        (tmp_path / bug).touch()
        for request in requests(keys["canary-operator"]):
            answers += await ask(here.url, request)
        (tmp_path / bug).unlink()
    everything = [text.encode() for text in await shown_by(here, metrics_port)]
    for name in {gateway, accounts}:
        await crash(here, name)
    assert await here.stop() == 0

    written = {
        path.relative_to(here.data_dir): path.read_bytes()
        for path in here.data_dir.rglob("*")
        if path.is_file() and path.name != "keys.env"
    }
    everything += [answer.body + str(answer.headers).encode() for answer in answers]
    everything += [*written.values(), here.output.encode(), collector[0].text.encode()]
    for name, key in keys.items():
        part = key[20:40].encode()  # what is cut off or in other case is found too
        assert not [text[:1000] for text in everything if part in text], name
    # All this would also be so if nothing had been written.
    assert {200, 400, 401, 403, 404, 405, 413, 431, 500} <= {answer.status for answer in answers}
    logs = {path.stem: text for path, text in written.items() if path.suffix == ".log"}
    assert b'"key":"canary-roblox"' in logs[gateway]
    assert b"a bug that the test put here" in logs[accounts]
    assert b"Slow query" in logs["mongod"]
    assert b"canary-roblox" in logs["mongod"]
    assert {span.service for span in collector[0].spans} >= {"gateway", *SERVICES}
    assert {"nats-server", *(SERVICES if options else ())} <= set(logs)
