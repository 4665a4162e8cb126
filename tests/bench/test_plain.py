"""The plain stack does the same job as Callboard; else it would be no comparison."""

import time
from typing import Any

import httpx
import pytest
from bench.park import POINTS, Park, add_people, open_park, plain_stack
from bench.started import callboard
from bench.traffic import FIRST_PERSON, PEOPLE, PLACE

WAIT_SECONDS = 60.0


def points_become(client: httpx.Client, user: int, points: int) -> Any:
    """The profile once it shows these points."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (profile := client.get("/profile", params={"id": user}).json())["points"] != points:
        assert time.monotonic() < deadline, profile
        time.sleep(0.02)
    return profile


def conversation(port: int, park: Park) -> list[tuple[int, Any]]:
    """What is answered to players who join, and to shifts that are logged, repeated, changed and overlapping."""
    worker, now = FIRST_PERSON + 5, int(time.time())
    told: list[tuple[int, Any]] = []
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, headers=park.by_key, trust_env=False, timeout=WAIT_SECONDS) as client:
        for user in (*range(FIRST_PERSON, FIRST_PERSON + 12), FIRST_PERSON + PEOPLE - 1):
            for training in ("true", "false"):
                query = {"place": PLACE, "id": user, "training": training}
                answer = client.get("/connect", params=query)
                told.append((answer.status_code, answer.json()))
        for key, duration, ended_at in (
            ("first", 600, now),
            ("first", 600, now),
            ("second", 630, now),
            ("third", 30, now - 700),
            ("fourth", 90_000, now),
        ):
            query = {"place": PLACE, "id": worker, "training": "false", "server": "s", "duration": duration}
            answer = client.post(
                "/log", params={**query, "ended_at": ended_at}, headers={"Idempotency-Key": key}
            )
            is_ok = answer.status_code == 200
            told.append((answer.status_code if is_ok else 4, answer.json() if is_ok else None))
            told.append((0, answer.headers.get("Idempotent-Replayed")))
        # 600 seconds, the 30 of the second that were not covered, and 30 more: the fractions add up to a point.
        profile = points_become(client, worker, POINTS + 11)
        told.append((0, {name: value for name, value in profile.items() if name != "_id"}))
        strange = client.get("/connect", params={"place": PLACE}, headers={"x-api-key": "wrong"})
        told.append((strange.status_code, None))
    return told


@pytest.fixture(scope="module")
def told_by_callboard_and_plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("park")
    with open_park(folder) as park:
        add_people(park)
        with plain_stack(park) as ports, callboard("one process", folder / "callboard", park.env) as up:
            told = {"callboard": conversation(up.port, park), "aiohttp": conversation(ports["aiohttp"], park)}
            shifts = {
                name: park.mongo[name].shifts.count_documents({}) for name in ("shifts", "plain_shifts")
            }
    return {**told, "shifts": shifts}


def test_the_plain_stack_answers_as_callboard_does(told_by_callboard_and_plain: dict[str, Any]) -> None:
    assert told_by_callboard_and_plain["aiohttp"] == told_by_callboard_and_plain["callboard"]


def test_the_plain_stack_stores_as_many_shifts(told_by_callboard_and_plain: dict[str, Any]) -> None:
    assert told_by_callboard_and_plain["shifts"] == {"shifts": 3, "plain_shifts": 3}
