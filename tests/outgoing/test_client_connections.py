"""Which connections the client uses again, and which it leaves."""

import asyncio
import itertools
from typing import Any

import pytest

from common.outgoing.client import Lost
from common.outgoing.errors import ServiceLost
from common.outgoing.message import Outgoing
from tests.outgoing.wire import (
    LONG,
    OK,
    SOON,
    answer_in_turn,
    ask,
    asked,
    at,
    let_pass,
    limits,
    listening,
    uses_again,
    uses_another,
)
from tests.support import wait_until

# Between two requests


@pytest.mark.parametrize(
    ("answer", "is_last"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}", False),
    ],
    ids=["close", "1.0", "1.0 keep-alive"],
)
async def test_a_connection_ends_with_the_answer_that_says_so(answer: bytes, is_last: bool) -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(answer)
        assert (await request)[2:] == (b"{}", is_last)
        await (uses_another(client, server, wire) if is_last else uses_again(client, wire))


@pytest.mark.parametrize(
    ("more", "at_once"),
    [*itertools.product((OK, b"HTTP/1.1 2", b"H", b"{"), (True, False)), (b"\r\n", False)],
)
async def test_a_connection_on_which_more_comes_than_was_asked_for_is_left(
    more: bytes, at_once: bool
) -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(OK + more if at_once else OK)
        assert (await request)[2] == b"{}"
        if not at_once:
            await wire.say(more)
        await uses_another(client, server, wire)


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async with asked() as (client, server, wire, request):
        await wire.say(OK)
        await request
        wire.hang_up()
        await uses_another(client, server, wire)


async def test_the_connection_used_last_is_used_next() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(3)]
            wires = [await server.accept() for _ in requests]
            await answer_in_turn([wires[0], wires[2], wires[1]], requests)
            await uses_again(client, wires[1])
            await uses_again(client, wires[1])


async def test_connections_that_are_not_needed_are_closed_and_others_kept() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(2)]
            wires = [await server.accept() for _ in requests]
            await answer_in_turn(wires, requests)
            let_pass(client, 0.6 * LONG)
            await uses_again(client, wires[1])
            let_pass(client, 0.6 * LONG)
            await wires[0].is_left()
            await uses_again(client, wires[1])
            let_pass(client, LONG)
            await wires[1].is_left()
            assert server.accepted == 2


async def test_a_connection_that_grew_too_old_while_nothing_ran_is_not_used() -> None:
    async with asked(limits(idle_seconds=0.0)) as (client, server, wire, request):
        await wire.say(OK)
        await request
        following = ask(client)
        other = await server.accept()
        await other.request()
        await other.say(OK)
        await following
        await wire.is_left()


async def test_connections_that_were_closed_are_forgotten() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(2)]
            wires = [await server.accept() for _ in requests]
            for wire in wires:
                await wire.request()
                await wire.say(OK)
            await asyncio.wait(requests)
            for wire in wires:
                wire.hang_up()
            await wait_until(lambda: not client._connections and not client._idle)


# Lost while idle, and found out too late


async def test_a_lost_connection_takes_the_idle_ones_along() -> None:
    async with listening() as server:
        with server.client() as client:
            requests = [ask(client) for _ in range(3)]
            wires = [await server.accept() for _ in requests]
            await answer_in_turn(wires, requests)
            request = ask(client)
            await wires[2].request()
            wires[2].break_off()
            with pytest.raises(Lost):
                await request
            await wires[0].is_left()
            await wires[1].is_left()


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_request_on_stale_connections_is_sent_again_only_if_it_may_be(
    repeatable: bool,
) -> None:
    async with listening() as server:
        url = f"http://127.0.0.1:{server.port}"
        async with at(url) as it:

            def send() -> asyncio.Task[Any]:
                return asyncio.create_task(
                    it.send(Outgoing("POST", "/it", seconds=SOON, repeatable=repeatable))
                )

            requests = [send() for _ in range(3)]
            wires = [await server.accept() for _ in requests]
            await answer_in_turn(wires, requests)
            request = send()
            await wires[2].request()
            for wire in wires:
                wire.break_off()
            if repeatable:
                fresh = await server.accept()
                await fresh.request()
                await fresh.say(OK)
                assert (await request).status == 200
            else:
                with pytest.raises(ServiceLost):
                    await request
                assert server.accepted == 3


async def test_the_deadline_of_one_request_is_not_that_of_the_next() -> None:
    async with asked() as (client, _, wire, request):
        await wire.say(OK)
        await request
        request = ask(client, seconds=10 * SOON)
        await wire.request()
        let_pass(client, 2 * SOON)  # until after the deadline of the first
        look = client._next_look
        await wait_until(lambda: client._next_look is not look)
        await wire.say(OK)
        assert (await request)[0] == 200
