"""MongoDB's disk is full: mongod aborts, and what was acknowledged before is there once there is room again."""

import shutil
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.pressure.mongods import OneMember, small_disk
from tests.support import wait_until
from tests.support.accounting import is_counted, letters
from tests.support.machine import machine
from tests.support.visitors import load, visitors

ROOM_BYTES = 500_000


@pytest.mark.long
async def test_a_full_disk_is_503_until_there_is_room_and_loses_nothing_that_was_acknowledged() -> None:
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk(megabytes=360))  # a mongod begins with 300 MB of journal
        mongod = OneMember(disk)
        stack.push_async_callback(mongod.kill)
        await mongod.start()
        one = await stack.enter_async_context(machine(mongo_url=mongod.url))
        await one.start("accounts", "applications", "shifts", "gateway")
        guest = await stack.enter_async_context(visitors(one))

        async def log(user: int) -> httpx.Response:
            return await guest.log(user, key=f"shift-{user}")

        async def upload(user: int) -> httpx.Response:
            body = {f"q{number}": "a long answer " * 250 for number in range(1, 5)}
            return await guest.bot.post("/application/upload", params={"id": user}, json=body)

        ballast = disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - ROOM_BYTES))
        async with load([("log", log)] * 4 + [("upload", upload)] * 12) as under_way:
            await wait_until(mongod.has_died, seconds=60)
            refused = len(under_way.of("log", 503))
            await wait_until(lambda: len(under_way.of("log", 503)) > refused)
            assert not await one.is_ready("shifts")
        assert {(seen.status, seen.retry_after) for seen in under_way.seen} == {(200, None), (503, "1")}
        ballast.unlink()
        await mongod.start()
        await wait_until(lambda: one.is_ready("shifts"), seconds=30)
        for seen in under_way.of("log"):
            answer = await log(seen.subject)
            assert answer.status_code == 200, answer.text
            if seen.status == 200:
                assert "idempotent-replayed" in answer.headers
        users = [seen.subject for seen in under_way.of("log")]
        await wait_until(lambda: is_counted(one, *users), seconds=60)
        assert {**await letters(one, "accounts"), **await letters(one, "shifts")} == {}
