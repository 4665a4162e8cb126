"""Traces are sent only where that is configured, and whoever they are sent to changes no answer."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest

from callboard.servers import free_port
from tests.gateway.builders import echoes, headers_of, open_gateway, served
from tests.support import ROOT, Servers, wait_until
from tests.support.machine import PATIENCE, machine
from tests.support.visitors import Visitors, visitors
from tests.tracing.collector import Collector, traced

EXPENSIVE = (
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "opentelemetry.proto",
    "google",
    "requests",
    "urllib3",
)
_MAKE_ALL = f"""
import sys
from pathlib import Path
from callboard import one_process
from common.settings import read_settings
from gateway.settings import GatewaySettings
one_process.create(read_settings(GatewaySettings), Path())
print(*(name for name in {EXPENSIVE} if name in sys.modules))
"""


async def has_points(guest: Visitors, user: int) -> bool:
    return bool((await guest.shown(user))["points"])


def imported(**settings: str) -> list[str]:
    """What of the expensive packages a process with the gateway and all services has imported."""
    given = {
        "CALLBOARD_MONGO_URL": "mongodb://127.0.0.1/?replicaSet=rs0",
        "CALLBOARD_NATS_URL": "nats://127.0.0.1",
        "CALLBOARD_INTERNAL_TOKEN": "t" * 40,
        "CALLBOARD_PUBLIC_URL": "https://park.example",
        "CALLBOARD_CONFIG": str(ROOT / "callboard.toml"),
    }
    command = (sys.executable, "-c", _MAKE_ALL)
    env = os.environ | given | settings
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.split()


def test_a_process_that_sends_no_traces_imports_nothing_for_it() -> None:
    assert imported() == []
    assert set(EXPENSIVE) == set(imported(CALLBOARD_OTLP_ENDPOINT="http://127.0.0.1:1"))


async def test_without_our_setting_nothing_is_sent_and_the_log_names_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collector = Collector()
    async with served(collector) as url:
        for name, value in (
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "10"),
            ("FASTAPI_OTEL_AUTO_CONFIGURE", "true"),
        ):
            monkeypatch.setenv(name, value)
        async with machine(is_one_process=True, patience=PATIENCE) as one:
            await one.start("callboard")
            async with visitors(one) as guest:
                assert (await guest.log(1)).status_code == 200
                assert (await guest.read("AAAA")).status_code == 404
                assert (await guest.bot.get("/readyz")).status_code == 200
            await one.stop("callboard")
            lines = [
                json.loads(line) for line in one.log("callboard").splitlines() if "gateway.access" in line
            ]
    assert [line.get("trace_id", "none") for line in lines] == ["none", "none"]
    assert collector.paths == []


async def test_what_a_caller_says_of_a_trace_reaches_no_service(servers: Servers) -> None:
    async with open_gateway(servers, echoes()) as client:
        headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "a=b"}
        seen = headers_of(await client.get("/applications/AAAA", headers=headers))
    assert "x-request-id" in seen
    assert not {"traceparent", "tracestate"} & set(seen)


async def test_spans_that_wait_are_sent_before_a_process_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"):
        monkeypatch.setenv(setting, "100000")  # more than asking again and again makes of them
    async with traced("one process", send_after_milliseconds=600_000) as park:
        worker = await park.machine.person()
        async with visitors(park.machine) as guest:
            answer = await guest.log(worker.id)
            await wait_until(partial(has_points, guest, worker.id))
        assert park.collector.spans == []
        await park.machine.stop("callboard")
        assert len(await park.spans(answer, 3)) == 3


@asynccontextmanager
async def away() -> AsyncIterator[str]:
    """The URL of a collector that is not there."""
    yield f"http://127.0.0.1:{free_port()}"


@asynccontextmanager
async def hanging() -> AsyncIterator[str]:
    """The URL of a collector that never answers."""
    is_over = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await is_over.wait()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
        is_over.set()


@pytest.mark.parametrize("collector", [away, hanging])
async def test_a_collector_that_does_not_answer_changes_nothing(
    collector: Callable[[], AbstractAsyncContextManager[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")  # who waited for the collector would wait so long
    async with (
        collector() as url,
        machine(is_one_process=True, patience=PATIENCE, otlp_endpoint=url) as one,
    ):
        await one.start("callboard")
        workers = await one.people(50, "Cast Member")
        async with visitors(one) as guest:
            for worker in workers:
                began = time.monotonic()
                assert (await guest.log(worker.id)).text == '{"status":"success"}'
                assert time.monotonic() - began < 30
            for worker in workers:
                await wait_until(partial(has_points, guest, worker.id))
        await one.stop("callboard")  # which waits for a minute at most
