"""Plain functions that tests of several parts use."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI

from callboard.databases import migrate_database
from common.outgoing.headers import TOKEN_HEADER
from common.settings import ProcessSettings, read_settings

ROOT = Path(__file__).parents[2]

S = TypeVar("S", bound=ProcessSettings)
_ids = itertools.count(10**6 + secrets.randbelow(10**15))


@dataclass(frozen=True)
class Servers:
    """The MongoDB and the NATS of this test run."""

    mongo_url: str
    nats_url: str
    internal_token: str


def settings(model: type[S], servers: Servers, **given: Any) -> S:
    """A service's settings on the servers of this run and the shipped `callboard.toml`."""
    values = {
        "mongo_url": servers.mongo_url,
        "nats_url": servers.nats_url,
        "internal_token": servers.internal_token,
        "config": ROOT / "callboard.toml",
    }
    return read_settings(model, **values | given)


def unconnected(model: type[S], **given: Any) -> S:
    """A service's settings for what reads its limits and no more."""
    return settings(model, Servers("mongodb://nowhere", "nats://nowhere", "t" * 32), **given)


@contextmanager
def patience(factor: float = 10) -> Iterator[None]:
    """What is opened in here waits so many times longer, as a busy machine asks for.

    Who tests that something is given up says `patience=1`, or has limits of their own.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CALLBOARD_PATIENCE", str(factor))
        yield


def unique_id() -> int:
    """A Roblox or Discord id that no other test uses."""
    return next(_ids)


@asynccontextmanager
async def running(
    app: FastAPI, settings: ProcessSettings, name: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Migrate the service's database, start the app, and talk to it with the internal token.

    `name` is the service's; without one, the app's title.
    """
    await migrate_database(settings, name or app.title)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://test",
            headers={TOKEN_HEADER: settings.internal_token.get_secret_value()},
        ) as client,
    ):
        yield client


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30) -> None:
    """Return once the condition (plain or async) holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.02)
