"""Calls to other companies, over real sockets: within their limits, never for long, and nothing secret told."""

import asyncio
import gzip
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel

from common.errors import Unavailable
from common.outgoing.breaker import SECONDS_BETWEEN_TRIES
from common.outgoing.providers import LARGEST_ANSWER, Answer, Budget, Provider, Urgency, _read_proxy
from tests.standins import Fault, Forged, Standin, serving
from tests.standins.roblox import KEY, roblox
from tests.support.clock import Clock

CANARY = "nobody-may-see-this-in-a-log"


class Company(Standin):
    """Answers everything with {"is":true}."""

    def routes(self) -> Iterable[web.RouteDef]:
        yield web.route("*", "/{path:.*}", self._say_yes)

    async def _say_yes(self, _: web.Request) -> web.Response:
        return web.json_response({"is": True})


class Yes(BaseModel):
    """What the company answers."""

    is_: bool

    model_config = {"alias_generator": lambda name: name.rstrip("_")}


@pytest.fixture
async def company() -> AsyncIterator[Company]:
    """A company in good order."""
    standin = Company()
    async with serving(standin):
        yield standin


@pytest.fixture
async def provider(company: Company) -> AsyncIterator[Provider]:
    """Calls to it."""
    async with Provider("it", company.url) as own:
        yield own


def plenty() -> Budget:
    """More than a test can spend."""
    return Budget(60_000)


async def ask(provider: Provider, budget: Budget | None = None, seconds: float = 60.0, **how: Any) -> Answer:
    """One call."""
    return await provider.call("GET", "/it", budget=budget or plenty(), seconds=seconds, **how)


async def fails_at_once(provider: Provider, budget: Budget | None = None, seconds: float = 60.0) -> bool:
    """Whether the call fails long before its time is up."""
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await ask(provider, budget, seconds)
    return time.monotonic() - began < seconds / 2


# ---------------------------------------------------------------------------------------------- budgets


async def spend(budget: Budget, urgency: Urgency) -> int:
    """How many calls may be made now without a wait."""
    taken = 0
    while True:
        try:
            await budget.take(urgency, deadline=0.0)
        except TimeoutError:
            return taken
        taken += 1


async def test_a_budget_gives_no_more_than_its_limit_in_any_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("common.outgoing.providers.time.monotonic", lambda: now)
    for per_minute in (300, 100, 12, 5):
        budget = Budget(per_minute)
        taken = 0
        for _ in range(601):
            taken += await spend(budget, Urgency.DECISION)
            now += 0.1
        assert 0.8 * per_minute <= taken <= per_minute


async def test_what_is_less_urgent_leaves_room_for_the_others() -> None:
    budget = Budget(300)
    background = await spend(budget, Urgency.BACKGROUND)
    player = await spend(budget, Urgency.PLAYER)
    decision = await spend(budget, Urgency.DECISION)
    assert background > 5
    assert player > 3
    assert decision > 3


async def test_a_crowd_of_players_does_not_keep_the_background_out_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1.0

    async def sleep(seconds: float) -> None:
        until = now + seconds
        while now < until:  # noqa: ASYNC110 - the time is our own
            await asyncio.sleep(0)

    monkeypatch.setattr("common.outgoing.providers.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("common.outgoing.providers.asyncio", SimpleNamespace(sleep=sleep))
    budget = Budget(3000)
    await spend(budget, Urgency.PLAYER)

    async def keep_asking() -> None:
        while True:
            with suppress(TimeoutError):
                await budget.take(Urgency.PLAYER, deadline=now + 1)
            await asyncio.sleep(0)

    async def let_time_pass() -> None:
        nonlocal now
        while True:
            now += 0.001
            await asyncio.sleep(0)

    crowd = [asyncio.create_task(keep_asking()) for _ in range(20)]
    crowd.append(asyncio.create_task(let_time_pass()))
    try:
        await budget.take(Urgency.BACKGROUND, deadline=now + 1)
    finally:
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    left = await spend(budget, Urgency.DECISION)
    assert left > 20  # what is kept for decisions was left alone


async def test_a_call_waits_for_its_turn(company: Company, provider: Provider) -> None:
    budget = Budget(600)
    await spend(budget, Urgency.DECISION)
    assert (await ask(provider, budget)).status == 200
    assert len(company.requests) == 1


async def test_a_wait_that_cannot_end_in_time_fails_at_once(company: Company, provider: Provider) -> None:
    budget = Budget(2)  # so that the next call may be made in a minute
    await spend(budget, Urgency.DECISION)
    assert await fails_at_once(provider, budget, seconds=20)
    assert not company.requests


async def test_a_call_is_made_again_when_the_provider_says_so(company: Company, provider: Provider) -> None:
    company.faults.retry_after = 0.5
    company.faults.next(Fault.LIMITED)
    assert (await ask(provider)).status == 200
    first, second = company.requests
    assert second.at - first.at >= 0.5


async def test_nobody_waits_for_a_pause_that_is_too_long(company: Company, provider: Provider) -> None:
    company.faults.retry_after = 120
    company.faults.next(Fault.LIMITED)
    budget = plenty()
    for _ in range(3):
        assert await fails_at_once(provider, budget)
    assert len(company.requests) == 1
    assert (await ask(provider)).status == 200  # other calls have a limit of their own


async def test_a_pause_is_not_cut_short_by_a_shorter_one() -> None:
    budget = plenty()
    budget.pause(30)
    budget.pause(0.01)
    with pytest.raises(TimeoutError):
        await budget.take(Urgency.DECISION, deadline=time.monotonic() + 10)


async def test_what_the_headers_say_is_left_is_all_that_is_spent() -> None:
    async with (
        roblox() as standin,
        Provider("Roblox", standin.url, {"x-api-key": KEY}) as provider,
    ):
        standin.limits["roles"], standin.window_seconds = 4, 0.7
        budget = plenty()
        path = f"/cloud/v2/groups/{standin.group}/roles"
        began = time.monotonic()
        for _ in range(9):
            answer = await provider.call("GET", path, budget=budget, seconds=60)
            assert answer.status == 200
        assert time.monotonic() - began >= 1.3
        assert len(standin.requests) == 9  # none of them was refused


async def test_a_new_window_is_seen_though_the_old_one_was_told_to_last_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("common.outgoing.providers.time.monotonic", lambda: now)
    budget = Budget(6000)
    budget.heed({"x-ratelimit-remaining": "2", "x-ratelimit-reset": "1"})  # 0.4 s, rounded up
    now += 0.5
    budget.heed({"x-ratelimit-remaining": "299", "x-ratelimit-reset": "60"})
    assert await spend(budget, Urgency.DECISION) == 299
    budget.heed({"x-ratelimit-remaining": "298", "x-ratelimit-reset": "61"})  # was overtaken, and rounded
    assert await spend(budget, Urgency.DECISION) == 0


async def test_what_is_left_is_kept_for_what_is_urgent() -> None:
    budget = Budget(6000)
    budget.heed({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "30"})
    assert await spend(budget, Urgency.BACKGROUND) == 0
    assert await spend(budget, Urgency.DECISION) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-remaining": "0"},
        {"x-ratelimit-remaining": "soon", "x-ratelimit-reset": "9"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "nan"},
        {"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "inf"},
        {"x-ratelimit-remaining": "", "x-ratelimit-reset": ""},
        {"x-ratelimit-remaining": ",0", "x-ratelimit-reset": ";w=60"},
    ],
)
async def test_headers_that_say_nothing_change_nothing(headers: dict[str, str]) -> None:
    budget = plenty()
    budget.heed(headers)
    await budget.take(Urgency.DECISION, deadline=time.monotonic())


async def test_headers_may_hold_fractions_and_several_limits_of_which_the_first_counts() -> None:
    budget = plenty()
    headers = {
        "x-ratelimit-limit": "100, 100;w=60",
        "x-ratelimit-remaining": "2.0, 9",
        "x-ratelimit-reset": "30.5, 7",
    }
    budget.heed(headers)
    assert await spend(budget, Urgency.DECISION) == 2


def _date(**ahead: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(**ahead), usegmt=False)


@pytest.mark.parametrize(
    ("headers", "body", "least", "most"),
    [
        ({"Retry-After": "50"}, b"", 50, 50),
        ({"Retry-After": " 50.25 "}, b"", 50.25, 50.25),
        ({"Retry-After": "50, 80"}, b"", 50, 50),
        ({"Retry-After": _date(seconds=50, days=9), "Date": _date(days=9)}, b"", 45, 50),
        ({"Retry-After": _date(hours=-1)}, b"", 0, 0),
        ({"Retry-After": "soon", "x-ratelimit-reset": "50"}, b"", 50, 50),
        ({}, b'{"retry_after":50.5,"global":false}', 50.5, 50.5),
        ({}, b'{"retry_after":"50.5"}', 50.5, 50.5),
        ({}, b'{"retry_after":null}', 1, 1),
        ({}, b'{"retry_after":-3}', 1, 1),
        ({}, b"{}", 1, 1),
        ({}, b"<!DOCTYPE html><title>error code: 1015</title>", 1, 1),
        ({"Retry-After": ""}, b"", 1, 1),
    ],
)
async def test_however_a_provider_says_how_long_to_wait_it_is_left_alone_for_that_long(
    company: Company,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    body: bytes,
    least: float,
    most: float,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Budget, "pause", lambda _, seconds: pauses.append(seconds))
    company.faults.next(Forged(429, body, headers))
    with pytest.raises(Unavailable):
        await ask(provider, attempts=1)
    assert least <= pauses[0] <= most


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "fault",
    [
        Fault.BROKEN,
        Fault.AWAY,
        Fault.CUT,
        Fault.CLOSED,
        Fault.HANG,
        Forged(302, headers={"Location": "/elsewhere"}),
        Forged(200, b"x" * (LARGEST_ANSWER + 1)),
        Forged(200, gzip.compress(b"0" * (LARGEST_ANSWER + 1)), {"Content-Encoding": "gzip"}),
        Forged(200, b"this is not packed", {"Content-Encoding": "gzip"}),
    ],
    ids=lambda fault: fault.name if isinstance(fault, Fault) else None,
)
async def test_a_call_that_fails_is_made_again(
    company: Company, provider: Provider, fault: Fault | Forged
) -> None:
    company.faults.next(fault)
    answer = await ask(provider, seconds=8 if fault is Fault.HANG else 60)
    assert provider.read(Yes, answer).is_
    assert [one.path for one in company.requests] == ["/it", "/it"]


async def test_a_call_that_must_not_be_made_twice_is_made_once(company: Company, provider: Provider) -> None:
    company.faults.next(Fault.CUT)
    with pytest.raises(Unavailable):
        await ask(provider, attempts=1)
    assert len(company.requests) == 1


@pytest.mark.parametrize("fault", [Fault.BROKEN, Fault.CLOSED, Fault.HANG])
async def test_a_call_ends_in_its_time(company: Company, fault: Fault) -> None:
    company.faults.always(fault)
    for seconds in (0.6, 3, 15):  # the longer ones for a machine that is too slow to ask twice in time
        company.requests.clear()
        async with Provider("it", company.url) as provider:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await ask(provider, seconds=seconds, attempts=50)
            assert time.monotonic() - began < 60
        if len(company.requests) > 1:
            break
    assert 2 <= len(company.requests) <= 5


async def test_a_slow_answer_is_waited_for(company: Company, provider: Provider) -> None:
    company.faults.next(Fault.SLOW)
    assert (await ask(provider)).status == 200
    assert len(company.requests) == 1


async def test_a_refusal_is_an_answer(company: Company, provider: Provider) -> None:
    company.faults.next(Forged(404, {"code": "NOT_FOUND"}))
    assert (await ask(provider)).status == 404
    assert len(company.requests) == 1


@pytest.mark.parametrize(
    "body", [b"", b"<!DOCTYPE html>", b"[]", b'{"is":"perhaps"}', b"\xff\xfe", b"{" * 9999]
)
async def test_a_surprise_is_a_clear_error(
    company: Company, provider: Provider, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    company.faults.next(Forged(200, body))
    with pytest.raises(Unavailable):
        provider.read(Yes, await ask(provider))
    assert "it answered 200, and " in caplog.text
    assert "perhaps" not in caplog.text


async def test_a_provider_that_cannot_be_reached_is_unavailable() -> None:
    async with Provider("nowhere", "http://127.0.0.1:1") as nowhere:
        with pytest.raises(Unavailable, match="nowhere is unavailable"):
            await ask(nowhere)


# ----------------------------------------------------------------------------------------------- breaker


async def test_a_provider_that_is_down_is_left_alone_and_tried_now_and_then(
    company: Company, provider: Provider, clock: Clock
) -> None:
    company.faults.always(Fault.BROKEN)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await ask(provider)
    assert len(company.requests) == 5  # the fifth failure in a row ends the second call
    budget = Budget(10)  # that would soon be spent
    for _ in range(20):
        assert await fails_at_once(provider, budget)
    assert len(company.requests) == 5
    clock.now += SECONDS_BETWEEN_TRIES
    for _ in range(20):
        assert await fails_at_once(provider)
    assert len(company.requests) == 6
    company.faults.clear()
    clock.now += SECONDS_BETWEEN_TRIES
    for _ in range(10):
        assert (await ask(provider)).status == 200


@pytest.mark.usefixtures("clock")
async def test_a_provider_that_hangs_counts_as_down(company: Company, provider: Provider) -> None:
    company.faults.always(Fault.HANG)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await ask(provider, seconds=1, attempts=1)
    assert await fails_at_once(provider)
    assert len(company.requests) == 5


async def test_callers_who_leave_are_not_its_failure(company: Company, provider: Provider) -> None:
    company.faults.always(Fault.HANG)
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(provider)
    company.faults.clear()
    assert (await ask(provider)).status == 200


async def test_refusals_and_full_budgets_are_not_its_failure(company: Company, provider: Provider) -> None:
    company.faults.retry_after = 0.01
    for _ in range(6):
        company.faults.next(Forged(400), Fault.LIMITED)
    for _ in range(6):
        assert (await ask(provider)).status == 400
    assert (await ask(provider)).status == 200


# ----------------------------------------------------------------------------------- secrets and proxies


async def test_no_secret_is_ever_logged(company: Company, caplog: pytest.LogCaptureFixture) -> None:
    faults: list[Fault | Forged | None] = [
        None,
        *Fault,
        Forged(302, headers={"Location": f"/{CANARY}"}),
        Forged(404, {"message": CANARY}),
    ]
    company.faults.next(*faults)
    with caplog.at_level(logging.DEBUG):
        async with Provider("it", company.url, {"x-api-key": CANARY}) as provider:
            for _ in faults:
                try:
                    answer = await provider.call(
                        "POST",
                        f"/webhooks/{CANARY}",
                        budget=plenty(),
                        seconds=1,
                        attempts=1,
                        params={"key": CANARY},
                        json={"apiKey": CANARY},
                    )
                    provider.read(Yes, answer)
                except Unavailable as error:
                    assert CANARY not in str(error)
    assert "it: " in caplog.text
    assert CANARY not in caplog.text
    assert CANARY in company.requests[0].headers["x-api-key"]


async def test_a_proxy_of_the_operator_is_used(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, company.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with Provider("far away", "http://roblox.invalid") as provider:
        assert (await ask(provider)).status == 200
    assert company.requests[0].headers["Host"] == "roblox.invalid"


@pytest.mark.parametrize(
    "no_proxy",
    [
        *("::1", "[::1]", "fd00::/8", "192.168.0.0/16", ".local", "", "[", "%zz", "http://", "\N{SNOWMAN}"),
        "localhost,127.0.0.0/8,::1,[::1],fd00::/8, ,,.local,*.internal, 10.0.0.1:80",
    ],
)
async def test_whatever_stands_in_no_proxy_the_proxy_is_used_for_all_others(
    company: Company, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    monkeypatch.setenv("http_proxy", company.url)
    async with Provider("far away", "http://roblox.invalid") as provider:
        assert (await ask(provider)).status == 200
    assert company.requests[0].headers["Host"] == "roblox.invalid"


@pytest.mark.parametrize("no_proxy", ["*", " 127.0.0.1 ", "a.local,127.0.0.1", "[::1],*"])
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
async def test_who_stands_in_no_proxy_is_called_directly(
    company: Company, monkeypatch: pytest.MonkeyPatch, name: str, no_proxy: str
) -> None:
    for one in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(one, "http://127.0.0.1:1")
    for one in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, no_proxy)
    async with Provider("near", company.url) as provider:
        assert (await ask(provider)).status == 200


@pytest.mark.parametrize(
    "proxy",
    [f"socks://me:{CANARY}@127.0.0.1:1", f"socks5://{CANARY}@[::1", "http://", "ftp://a:b:c"],
)
async def test_a_proxy_that_cannot_be_used_is_left_out_with_one_warning(
    company: Company, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, proxy: str
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)
    _read_proxy.cache_clear()
    for _ in range(2):
        async with Provider("near", company.url) as provider:
            assert (await ask(provider)).status == 200
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ALL_PROXY is not used" in warning.getMessage()
    assert CANARY not in caplog.text
