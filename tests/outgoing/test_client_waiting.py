"""Requests of the client that wait for a connection, and requests that are given up."""

import asyncio

import pytest

from common.outgoing.client import Lost, NotConnected
from tests.outgoing.wire import OK, SOON, ask, asked, let_pass, limits, listening, uses_another

# Waiting for a connection


TWO_AT_MOST = limits(max_connections=2)


async def test_beyond_the_most_connections_requests_wait_and_come_in_order() -> None:
    async with listening() as server:
        with server.client(limits=TWO_AT_MOST) as client:
            requests = [ask(client, target=b"/%d" % number) for number in range(6)]
            wires = [await server.accept(), await server.accept()]
            first = {(await wire.request()).split()[1] for wire in wires}
            assert first == {b"/0", b"/1"}
            for number in range(2, 6):
                wire = wires[number % 2]
                await wire.say(OK)
                assert (await wire.request()).startswith(b"GET /%d " % number)
            for wire in wires:
                await wire.say(OK)
            await asyncio.gather(*requests)
            assert server.accepted == 2


@pytest.mark.parametrize("is_its_turn", [False, True], ids=["waiting", "at its turn"])
async def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing_behind(is_its_turn: bool) -> None:
    async with listening() as server:
        with server.client(limits=TWO_AT_MOST) as client:
            requests = [ask(client) for _ in range(4)]
            wires = [await server.accept(), await server.accept()]
            for wire in wires:
                await wire.request()
            if is_its_turn:  # it is given the place of the first, and does not know yet
                (connection,) = [one for one in client._connections if wires[0].is_of(one)]
                connection.data_received(OK)
                asyncio.get_running_loop().call_soon(requests[2].cancel)
            else:
                requests[2].cancel()
                await wires[0].say(OK)
            assert (await wires[0].request()).startswith(b"GET /it ")  # of the fourth
            await wires[0].say(OK)
            await wires[1].say(OK)
            done = await asyncio.gather(*requests, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in done] == [False, False, True, False]
            following = [ask(client) for _ in range(2)]
            for wire in wires:
                await wire.request()
                await wire.say(OK)
            await asyncio.gather(*following)
            assert server.accepted == 2


@pytest.mark.parametrize("how", ["cancelled", "late", "lost"])
async def test_a_request_that_fails_makes_room_for_the_next(how: str) -> None:
    async with listening() as server:
        with server.client(limits=TWO_AT_MOST) as client:
            failing = [ask(client) for _ in range(2)]
            wires = [await server.accept() for _ in failing]
            waiting = ask(client, target=b"/next")
            for request, wire in zip(failing, wires, strict=True):
                await wire.request()
                if how == "cancelled":
                    request.cancel()
                elif how == "lost":
                    wire.break_off()
            if how == "late":
                let_pass(client, SOON)
            await asyncio.wait(failing)
            other = await server.accept()
            assert (await other.request()).startswith(b"GET /next ")
            await other.say(OK)
            await waiting


async def test_the_wait_counts_towards_the_deadline() -> None:
    async with listening() as server:
        with server.client(limits=TWO_AT_MOST) as client:
            held = [ask(client) for _ in range(2)]
            for _ in held:
                await (await server.accept()).request()
            with pytest.raises(TimeoutError):
                await ask(client, seconds=0.1)
            assert not any(request.done() for request in held)
    await asyncio.wait(held)
    assert all(isinstance(request.exception(), Lost) for request in held)


# Giving up


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", OK[:-1]])
@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_a_connection_is_left_when_its_request_is_given_up(part: bytes, how: str) -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(part)
        if how == "cancelled":
            request.cancel()
        else:
            let_pass(client, SOON)
        with pytest.raises(asyncio.CancelledError if how == "cancelled" else TimeoutError):
            await request
        await uses_another(client, server, wire)


async def test_an_answer_that_meets_its_cancellation_does_not_harm_the_next_request() -> None:
    async with asked() as (client, server, wire, request):
        (connection,) = client._connections
        connection.data_received(OK)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await uses_another(client, server, wire)


async def test_an_answer_that_comes_after_its_cancellation_is_dropped() -> None:
    async with asked() as (client, _, wire, request):
        await wire.say(b"HTTP/1.1 200 OK\r\n\r\nall")
        (connection,) = client._connections
        request.cancel()
        connection.eof_received()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_closing_the_client_closes_its_connections_for_good() -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(OK)
        await request
        client.close()
        await wire.is_left()
        with pytest.raises(NotConnected):
            await ask(client)
        await (await server.accept()).is_left()


async def test_closing_the_client_gives_up_what_is_under_way() -> None:
    async with asked() as (client, _, wire, request):
        client.close()
        with pytest.raises(Lost):
            await request
        await wire.is_left()
