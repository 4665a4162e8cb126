"""What the client makes of a server that says nothing."""

import asyncio
from typing import Any

import pytest

from common.outgoing.client import _LOOK_SECONDS, Client, NotConnected, Silent
from tests.outgoing.wire import OK, PATIENT, SOON, ask, asked, limits, listening, look
from tests.support import wait_until

LOOKS = 1 + int(PATIENT.silent_seconds / _LOOK_SECONDS)
"""How often it looks before it takes a server for silent."""


class Calls:
    """Counts."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> None:
        self.number += 1


async def test_a_server_that_says_nothing_while_a_request_waits_is_told_of_now_and_then() -> None:
    silence = Calls()
    async with asked(on_silence=silence) as (client, _, wire, request):
        look(client, LOOKS - 1)
        assert silence.number == 0
        look(client)
        assert silence.number == 1
        look(client, LOOKS)
        assert silence.number == 2
        await wire.say(OK)
        await request
        look(client, 3 * LOOKS)  # nobody waits
        assert silence.number == 2


async def test_a_server_that_says_something_is_not_silent_whomever_it_tells() -> None:
    silence = Calls()
    async with asked(on_silence=silence, share=SOON, repeatable=True) as (client, server, _, request):
        other = ask(client)
        talking = await server.accept()
        await talking.request()
        for _ in range(3):
            look(client, LOOKS - 1)
            await talking.say(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            look(client)
        assert (silence.number, request.done(), other.done()) == (0, False, False)
        request.cancel()
        other.cancel()


async def test_requests_that_each_wait_for_less_than_that_show_a_silent_server_together() -> None:
    silence = Calls()
    async with listening() as server:
        with server.client(limits=limits(), on_silence=silence) as client:
            for _ in range(2):
                request = ask(client)
                await (await server.accept()).request()
                look(client, LOOKS // 2 + 1)
                request.cancel()
                await asyncio.wait([request])
            assert silence.number == 1


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_repeatable_attempt_is_given_up_when_its_share_is_over_and_no_other(repeatable: bool) -> None:
    async with asked(share=10 * _LOOK_SECONDS, repeatable=repeatable) as (client, _, wire, request):
        look(client, 10)
        await asyncio.sleep(0)
        assert not request.done()
        look(client, 2)
        if repeatable:
            with pytest.raises(Silent):
                await request
            await wire.is_left()
        else:
            await wire.say(OK)
            assert (await request)[0] == 200


@pytest.mark.parametrize(
    ("given", "is_given_up"),
    [
        ({"share": SOON, "repeatable": True}, True),
        ({"share": SOON, "repeatable": False}, False),
        ({"repeatable": True}, False),
    ],
    ids=["another may be asked", "not repeatable", "no other to ask"],
)
async def test_only_what_may_be_asked_of_another_is_abandoned(
    given: dict[str, Any], is_given_up: bool
) -> None:
    async with asked(**given) as (client, _, wire, request):
        client.abandon()
        if is_given_up:
            with pytest.raises(Silent):
                await request
        else:
            await wire.say(OK)
            assert (await request)[0] == 200


async def test_what_waits_for_a_connection_is_abandoned_as_it_was_not_sent() -> None:
    async with asked(limits(max_connections=1)) as (client, server, wire, request):
        waiting = ask(client)
        await wait_until(lambda: bool(client._waiters))
        client.abandon()
        with pytest.raises(NotConnected):
            await waiting
        await wire.say(OK)
        assert (await request)[0] == 200
        assert server.accepted == 1
        assert await _is_answered(client, wire)


async def _is_answered(client: Client, wire: Any) -> bool:
    """Whether the only connection is free for the next request."""
    request = ask(client)
    await wire.request()
    await wire.say(OK)
    return (await request)[0] == 200


async def test_a_probe_has_a_connection_of_its_own() -> None:
    async with asked(limits(max_connections=1)) as (client, server, wire, request):
        deadline = asyncio.get_running_loop().time() + SOON
        probe = asyncio.create_task(client.probe(b"/healthz", deadline))
        other = await server.accept()
        assert (await other.request()).startswith(b"GET /healthz HTTP/1.1\r\n")
        await other.say(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        await probe
        await other.is_left()
        await wire.say(OK)
        await request
