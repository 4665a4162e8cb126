"""A service behind one name that stands for several addresses, as containers and pods have them."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from callboard.servers import free_port
from common.errors import Unavailable
from common.outgoing import replicas
from common.outgoing.message import Outgoing
from tests.gateway.builders import Echo, served
from tests.outgoing.wire import PATIENT, at, limits
from tests.support import wait_until

Ask = Callable[[], Awaitable[None]]
"""Sends a request, which must succeed."""

ONE, OTHER = "127.0.0.1", "127.0.0.2"


class Name:
    """What a name stands for just now; None: it cannot be looked up. While `answers` is cleared, it is looked up."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: tuple[str, ...] | None = addresses
        self.looks = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def look_up(self, _: str) -> list[str]:
        self.looks += 1
        await self.answers.wait()
        if self.addresses is None:
            raise OSError
        return list(self.addresses)


@asynccontextmanager
async def behind(
    name: Name, echoes: dict[str, Echo], monkeypatch: pytest.MonkeyPatch, **given: float
) -> AsyncIterator[Ask]:
    """A service by name, and the echoes at its addresses, all with the same port."""
    monkeypatch.setattr(replicas, "addresses", name.look_up)
    port = free_port()
    async with AsyncExitStack() as stack:
        for host, echo in echoes.items():
            await stack.enter_async_context(served(echo, host=host, port=port))
        own = limits(**{"resolve_every": 0.05, **given})
        it = await stack.enter_async_context(at(f"http://it:{port}", limits=own))

        async def ask() -> None:
            assert (await it.send(Outgoing("POST", "/it", seconds=60))).status == 200

        yield ask


async def test_the_addresses_behind_a_name_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    async with behind(Name(ONE, OTHER), echoes, monkeypatch) as ask:
        for _ in range(6):
            await ask()
    assert [len(echo.seen) for echo in echoes.values()] == [3, 3]


async def test_an_address_that_comes_or_goes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    name = Name(ONE)
    async with behind(name, echoes, monkeypatch) as ask:
        await ask()
        name.addresses = (ONE, OTHER)

        async def is_asked() -> bool:
            await ask()
            return bool(echoes[OTHER].seen)

        await wait_until(is_asked)
        name.addresses = (OTHER,)
        looks = name.looks

        async def is_looked_up() -> bool:
            await ask()
            return name.looks > looks

        await wait_until(is_looked_up)
        seen = len(echoes[ONE].seen)
        for _ in range(4):
            await ask()
        assert len(echoes[ONE].seen) == seen


async def test_one_address_that_is_dead_does_not_close_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = Echo()
    async with behind(Name(ONE, OTHER), {OTHER: echo}, monkeypatch) as ask:
        for _ in range(4 * PATIENT.max_failures):
            await ask()
    assert len(echo.seen) == 4 * PATIENT.max_failures


async def test_while_a_name_cannot_be_looked_up_those_known_before_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = Name(ONE)
    async with behind(name, {ONE: Echo()}, monkeypatch) as ask:
        await ask()
        name.addresses, looks = None, name.looks

        async def is_looked_up() -> bool:
            await ask()
            return name.looks > looks + 1

        await wait_until(is_looked_up)


async def test_a_look_up_that_takes_long_holds_up_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    name = Name(ONE)
    async with behind(name, echoes, monkeypatch) as ask:
        await ask()
        name.addresses, looks = (OTHER,), name.looks
        name.answers.clear()

        async def is_being_looked_up() -> bool:
            await ask()
            return name.looks > looks

        async with asyncio.timeout(60):
            await wait_until(is_being_looked_up)
            seen = len(echoes[ONE].seen)
            for _ in range(20):
                await ask()
        assert (len(echoes[ONE].seen), name.looks) == (seen + 20, looks + 1)
        name.answers.set()

        async def is_asked() -> bool:
            await ask()
            return bool(echoes[OTHER].seen)

        await wait_until(is_asked)


async def test_addresses_that_nobody_looked_up_for_long_are_looked_up_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    name = Name(ONE)
    async with behind(name, echoes, monkeypatch, resolve_every=0.0, old_seconds=-600.0) as ask:
        await ask()
        started = time.monotonic()
        name.addresses, looks = (OTHER,), name.looks
        await wait_until(lambda: time.monotonic() > started + 0.05)
        for _ in range(3):
            await ask()
        assert name.looks == looks + 3
    assert [len(echo.seen) for echo in echoes.values()] == [1, 3]


async def test_a_name_that_cannot_be_looked_up_is_logged_once_until_it_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = Name(ONE)
    async with behind(name, {ONE: Echo()}, monkeypatch) as ask:

        async def looked_up(looks: int) -> None:
            async def is_looked_up() -> bool:
                await ask()
                return name.looks >= looks

            await wait_until(is_looked_up)

        for turn in range(1, 3):
            name.addresses = (ONE,)
            await looked_up(name.looks + 2)
            name.addresses = None
            await looked_up(name.looks + 4)
            told = [
                record.getMessage() for record in caplog.records if record.name == "common.outgoing.replicas"
            ]
            assert len(told) == turn
        assert told[0].startswith("it cannot be looked up, 1 addresses stay in use")


async def test_one_tls_context_is_made_for_all_replicas_and_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def count() -> ssl.SSLContext:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", count)
    monkeypatch.setattr(replicas, "addresses", Name(ONE, OTHER).look_up)
    replicas._tls_context.cache_clear()
    port = free_port()
    async with at(f"http://a:{port}"):
        assert not made
    urls = [f"https://{host}:{port}" for host in ("a", "b", "c")]
    async with at(*urls) as it, at(*urls) as other:
        assert len(made) == 1
        for service in (it, other):
            with pytest.raises(Unavailable):
                await service.send(Outgoing("GET", "/it"))
    assert len(made) == 1


def test_nothing_is_sent_twice_unless_it_is_said_to_be_repeatable() -> None:
    assert not Outgoing("POST", "/it").repeatable
    assert not Outgoing("GET", "/it").repeatable
