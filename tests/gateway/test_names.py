"""A service behind one name that stands for several addresses, as containers and pods have them."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

import gateway.upstreams
from callboard.servers import free_port
from common.errors import Unavailable
from common.outgoing.breaker import FAILURES_IN_A_ROW
from gateway.proxy import Proxy
from gateway.routes import Route, Routes
from gateway.settings import GatewaySettings
from gateway.upstreams import Outgoing, Upstreams
from tests.gateway.builders import Echo, served
from tests.support import Servers, settings, wait_until

ROUTE = Route(method="POST", path="/it", service="it", anyone=True)
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
    name: Name, echoes: dict[str, Echo], servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that knows the service by name, and the echoes at their addresses, all with the same port."""
    monkeypatch.setattr(gateway.upstreams, "addresses", name.look_up)
    monkeypatch.setattr(gateway.upstreams, "SECONDS_BETWEEN_LOOKS", 0.05)
    port = free_port()
    own = settings(GatewaySettings, servers, upstreams={"it": [f"http://it:{port}"]})
    async with AsyncExitStack() as stack:
        for host, echo in echoes.items():
            await stack.enter_async_context(served(echo, host=host, port=port))
        upstreams = await stack.enter_async_context(Upstreams(own, {}))
        transport = httpx.ASGITransport(Proxy(Routes([ROUTE]), [], upstreams, ()))
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))


async def test_the_addresses_behind_a_name_take_turns(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    async with behind(Name(ONE, OTHER), echoes, servers, monkeypatch) as client:
        for _ in range(6):
            assert (await client.post("/it")).status_code == 200
    assert [len(echo.seen) for echo in echoes.values()] == [3, 3]


async def test_an_address_that_comes_or_goes_is_noticed(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    name = Name(ONE)
    async with behind(name, echoes, servers, monkeypatch) as client:
        assert (await client.post("/it")).status_code == 200
        name.addresses = (ONE, OTHER)

        async def is_asked() -> bool:
            assert (await client.post("/it")).status_code == 200
            return bool(echoes[OTHER].seen)

        await wait_until(is_asked)
        name.addresses = (OTHER,)
        looks = name.looks

        async def is_looked_up() -> bool:
            assert (await client.post("/it")).status_code == 200
            return name.looks > looks

        await wait_until(is_looked_up)
        seen = len(echoes[ONE].seen)
        for _ in range(4):
            assert (await client.post("/it")).status_code == 200
        assert len(echoes[ONE].seen) == seen


async def test_one_address_that_is_dead_does_not_close_the_others(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = Echo()
    async with behind(Name(ONE, OTHER), {OTHER: echo}, servers, monkeypatch) as client:
        for _ in range(4 * FAILURES_IN_A_ROW):
            assert (await client.post("/it")).status_code == 200
    assert len(echo.seen) == 4 * FAILURES_IN_A_ROW


async def test_while_a_name_cannot_be_looked_up_those_known_before_are_asked(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Name(ONE)
    async with behind(name, {ONE: Echo()}, servers, monkeypatch) as client:
        assert (await client.post("/it")).status_code == 200
        name.addresses, looks = None, name.looks

        async def is_looked_up() -> bool:
            assert (await client.post("/it")).status_code == 200
            return name.looks > looks + 1

        await wait_until(is_looked_up)


async def test_a_look_up_that_takes_long_holds_up_no_request(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    name = Name(ONE)
    async with behind(name, echoes, servers, monkeypatch) as client:
        assert (await client.post("/it")).status_code == 200
        name.addresses, looks = (OTHER,), name.looks
        name.answers.clear()

        async def is_being_looked_up() -> bool:
            assert (await client.post("/it")).status_code == 200
            return name.looks > looks

        monkeypatch.setattr(gateway.upstreams, "LONGEST_LOOK_SECONDS", 600.0)
        async with asyncio.timeout(60):
            await wait_until(is_being_looked_up)
            seen = len(echoes[ONE].seen)
            for _ in range(20):
                assert (await client.post("/it")).status_code == 200
        assert (len(echoes[ONE].seen), name.looks) == (seen + 20, looks + 1)
        name.answers.set()

        async def is_asked() -> bool:
            assert (await client.post("/it")).status_code == 200
            return bool(echoes[OTHER].seen)

        await wait_until(is_asked)


async def test_addresses_that_nobody_looked_up_for_long_are_looked_up_before_they_are_used(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes = {ONE: Echo(), OTHER: Echo()}
    name = Name(ONE)
    async with behind(name, echoes, servers, monkeypatch) as client:
        assert (await client.post("/it")).status_code == 200
        started = time.monotonic()
        monkeypatch.setattr(gateway.upstreams, "OLD_SECONDS", -600.0)
        monkeypatch.setattr(gateway.upstreams, "SECONDS_BETWEEN_LOOKS", 0.0)
        name.addresses, looks = (OTHER,), name.looks
        await wait_until(lambda: time.monotonic() > started + 0.05)
        for _ in range(3):
            assert (await client.post("/it")).status_code == 200
        assert name.looks == looks + 3
    assert [len(echo.seen) for echo in echoes.values()] == [1, 3]


async def test_a_name_that_cannot_be_looked_up_is_logged_once_until_it_can(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = Name(ONE)
    async with behind(name, {ONE: Echo()}, servers, monkeypatch) as client:

        async def looked_up(looks: int) -> None:
            async def is_looked_up() -> bool:
                assert (await client.post("/it")).status_code == 200
                return name.looks >= looks

            await wait_until(is_looked_up)

        for turn in range(1, 3):
            name.addresses = (ONE,)
            await looked_up(name.looks + 2)
            name.addresses = None
            await looked_up(name.looks + 4)
            told = [record.getMessage() for record in caplog.records if record.name == "gateway.upstreams"]
            assert len(told) == turn
        assert told[0].startswith("it cannot be looked up, 1 addresses stay in use")


async def test_one_tls_context_is_made_for_all_replicas_and_before_the_first_request(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def count() -> ssl.SSLContext:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", count)
    monkeypatch.setattr(gateway.upstreams, "addresses", Name(ONE, OTHER).look_up)
    port = free_port()
    urls = [f"https://{host}:{port}" for host in ("a", "b", "c")]
    own = settings(GatewaySettings, servers, upstreams={"it": urls, "that": urls})
    async with Upstreams(own, {}) as upstreams:
        assert len(made) == 1
        for service in ("it", "that"):
            with pytest.raises(Unavailable):
                await upstreams.send(service, Outgoing("GET", "/it"))
    async with Upstreams(settings(GatewaySettings, servers), {}):
        pass
    assert len(made) == 1


def test_nothing_is_sent_twice_unless_it_is_said_to_be_repeatable() -> None:
    assert not Outgoing("POST", "/it").repeatable
    assert not Outgoing("GET", "/it").repeatable
