"""The bundled load generator tells how long callers waited, also while nothing could be sent."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.load import open_or_closed
from bench.traffic import Traffic, new_shifts

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def server(pause: float = 0, status: bytes = b"200") -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers each request at once, but for one `pause`; its port, and the requests."""
    seen: list[bytes] = []
    is_free = asyncio.Event()
    is_free.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                if pause and len(seen) == 50:
                    is_free.clear()
                    asyncio.get_running_loop().call_later(pause, is_free.set)
                await is_free.wait()
                writer.write(_ANSWER.replace(b"200", status))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], seen


async def test_a_pause_of_the_server_counts_for_all_who_should_have_been_served_in_it() -> None:
    began = time.monotonic()
    async with server(pause=0.5) as (port, seen):
        told = await asyncio.to_thread(
            open_or_closed, [Traffic("connect", port, {"x-api-key": "k"})], 2, 1.0, rate=200
        )
    answered = told["connect"]
    assert answered.requests == len(seen) == 200
    assert b"x-api-key: k" in seen[0]
    # Half of the requests were due during the pause, though only two could be under way.
    assert answered.p90 > 250
    assert 450 < answered.max < (time.monotonic() - began) * 1000


async def test_a_mix_keeps_its_shares_and_every_shift_has_its_own_key() -> None:
    async with server() as (port, seen):
        mix = [Traffic("connect", port, {}, share=4), new_shifts(port, {})]
        told = await asyncio.to_thread(open_or_closed, mix, 4, 0.5, rate=200)
    assert (told["connect"].requests, told["log"].requests) == (80, 20)
    keys = {line for one in seen for line in one.split(b"\r\n") if line.startswith(b"Idempotency-Key")}
    assert len(keys) == 20


async def test_what_is_refused_is_told_and_is_no_success() -> None:
    async with server(status=b"503") as (port, _seen):
        told = await asyncio.to_thread(open_or_closed, [Traffic("connect", port, {})], 2, 0.3, rate=None)
    answered = told["connect"]
    assert answered.failed == answered.requests > 0
    assert answered.statuses == {"503": answered.failed}
    assert answered.rate == 0
