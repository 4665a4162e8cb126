"""The gateway takes the open files that it can get, and no more clients than those have room for."""

import asyncio
import json
import logging
import resource
import signal

import pytest

from callboard.servers import free_port
from gateway.connections import connections_within, raise_limit
from tests.gateway.builders import answers_requests, open_database, start_process
from tests.support import Servers, wait_until
from tests.support.machine import START_SECONDS

NO_LIMIT = resource.RLIM_INFINITY


class System:
    """Takes a soft limit up to its own most, as setrlimit does; None: it permits no change."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.limits: list[tuple[int, int]] = []

    def set_limit(self, soft: int, hard: int) -> None:
        if self.most is None:
            raise PermissionError
        if hard != NO_LIMIT and not 0 <= soft <= hard:
            raise ValueError("current limit exceeds maximum limit")
        if not 0 <= soft <= self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.limits.append((soft, hard))


@pytest.mark.parametrize(
    ("soft", "hard", "most", "files"),
    [
        (1024, 4096, 1 << 30, 4096),
        (1024, 1 << 20, 1 << 30, 1 << 20),
        (4096, 4096, 1 << 30, 4096),
        (256, NO_LIMIT, 10_240, 10_240),  # macOS
        (256, NO_LIMIT, 1 << 30, 10_500),
        (20_000, NO_LIMIT, 1 << 30, 20_000),
        (NO_LIMIT, NO_LIMIT, 1 << 30, 10_500),
        (256, 1 << 20, 10_240, 10_240),  # macOS with a hard limit that is higher than what it takes
        (256, NO_LIMIT, 1_000, 256),
        (1024, 4096, None, 1024),
        (64, 100, 1 << 30, 100),
    ],
)
def test_the_limit_is_raised_as_far_as_the_system_permits(
    soft: int, hard: int, most: int | None, files: int
) -> None:
    system = System(most)
    assert raise_limit((soft, hard), system.set_limit) == files
    assert system.limits == ([(files, hard)] if system.limits else [])
    assert bool(system.limits) == (files != soft and soft != NO_LIMIT)


@pytest.mark.parametrize(
    ("files", "connections", "is_few"),
    [(1 << 20, 10_000, False), (10_240, 9_740, False), (1_000, 500, False), (999, 499, True), (64, 32, True)],
)
def test_half_of_the_files_are_for_clients_at_least(
    files: int, connections: int, is_few: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert connections_within(files) == connections
    assert len(caplog.records) == is_few


async def test_a_gateway_with_few_open_files_serves_and_says_how_many_clients(servers: Servers) -> None:
    async with open_database(servers):
        port = free_port()
    few = ("sh", "-c", 'ulimit -Sn 100; ulimit -Hn 200; exec "$@"', "sh")
    process = await start_process(servers, port, *few)
    try:
        await wait_until(lambda: answers_requests(port), START_SECONDS)
    finally:
        process.terminate()
        _, logged = await asyncio.wait_for(process.communicate(), START_SECONDS)
    assert process.returncode in (0, -signal.SIGTERM)
    warnings = [line for line in map(json.loads, logged.splitlines()) if line["level"] == "WARNING"]
    # Of keys, others are told: other tests make some that this version cannot read.
    assert [line["message"] for line in warnings if "files" in line["message"]] == [
        "this process may open 200 files only, so it serves 100 clients at once: raise its limit (ulimit -n)"
    ]
