"""From POST /log to the points in /profile, as a client sees it."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.traffic import PLACE

_POLL_SECONDS = 0.001
_LONGEST_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """One shift: when it was sent (seconds from the start), and milliseconds from then on until its answer,
    and until the points were visible; None where they were not in ten seconds."""

    at: float
    answered: float
    visible: float | None


async def watch(
    port: int, headers: Mapping[str, str], people: Iterator[tuple[int, int]], rate: float, seconds: float
) -> list[Seen]:
    """Log shifts at this rate, each of somebody else, and look until their points have changed.

    `people` are ids with the points that each has before.
    """
    began = time.perf_counter()
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{port}",
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as client:

        async def one(user: int, points: int) -> Seen:
            sent = time.perf_counter()
            query: dict[str, Any] = {
                "id": user,
                "place": PLACE,
                "duration": 600,
                "training": "false",
                "server": f"watched-{user % 100}",
                "ended_at": int(time.time()),
            }
            key = {"Idempotency-Key": f"watched-{user}-{sent}"}
            async with client.post("/log", params=query, headers=key) as answer:
                await answer.read()
                answer.raise_for_status()
            answered = time.perf_counter()
            while (now := time.perf_counter()) - sent < _LONGEST_SECONDS:
                async with client.get("/profile", params={"id": user}) as answer:
                    if (await answer.json())["points"] != points:
                        break
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return Seen(sent - began, (answered - sent) * 1000, None)
            now = time.perf_counter()
            return Seen(sent - began, (answered - sent) * 1000, (now - sent) * 1000)

        async with asyncio.TaskGroup() as group:
            tasks = []
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                tasks.append(group.create_task(one(*next(people))))
    return [task.result() for task in tasks]
