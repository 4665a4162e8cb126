"""Events that cannot be handled: they are put aside with the reason, and hold up no other."""

import json
from typing import Any

import nats

from callboard.dead_letters import replay
from common.events import CertificationGranted, Event, ShiftLogged
from tests.pressure.conftest import A_BUG
from tests.support import unique_id, wait_until
from tests.support.accounting import buried, count, is_counted, letters, log
from tests.support.machine import Machine

MALFORMED: dict[str, tuple[type[Event], bytes]] = {
    "not JSON": (ShiftLogged, b"{"),
    "not UTF-8": (ShiftLogged, b'{"user":"\xff"}'),
    "no object": (ShiftLogged, b"[]"),
    "an empty one": (ShiftLogged, b""),
    "fields of another kind": (CertificationGranted, b'{"user":"Roblox","version":0}'),
}


def granted(**given: Any) -> bytes:
    """An event of a right form, as far as its fields go one by one."""
    fields: dict[str, Any] = {
        "id": str(unique_id()),
        "occurred_at": "2026-01-01T00:00:00Z",
        "user": unique_id(),
        "username": "Person",
        "certification": "tot",
        "version": 1,
        "moderator": "Boss",
    }
    return json.dumps(fields | given).encode()


IMPOSSIBLE: dict[str, tuple[type[Event], bytes]] = {
    "a number that no database takes": (CertificationGranted, granted(version=2**70)),
    "a field without a name": (CertificationGranted, granted(certification="")),
}


async def publish(park: Machine, name: str, subject: str, payload: bytes) -> None:
    """Put an event on the stream as somebody else would."""
    client = await nats.connect(park.servers.nats_url)
    await client.jetstream(timeout=30).publish(subject, payload, headers={"Nats-Msg-Id": name})
    await client.close()


async def test_malformed_and_impossible_events_are_put_aside_and_the_next_one_is_counted(
    park: Machine,
) -> None:
    before = (await park.metrics("accounts")).value("dead_letters")
    poison = {**MALFORMED, **IMPOSSIBLE}
    for name, (model, payload) in poison.items():
        await publish(park, name, model.SUBJECT, payload)
    user = unique_id()
    async with park.service("shifts") as client:
        answer = await log(client, user)
    assert answer and answer.status_code == 200
    await wait_until(lambda: is_counted(park, user))

    of_both = {name for name, (model, _) in poison.items() if model is CertificationGranted}

    async def are_put_aside() -> bool:
        in_accounts, in_shifts = await letters(park), await letters(park, "shifts")
        return in_accounts.keys() >= poison.keys() and in_shifts.keys() >= of_both

    await wait_until(are_put_aside, seconds=60)
    reasons = await letters(park)
    for name in MALFORMED:
        assert reasons[name].startswith("invalid: "), name
    for name in IMPOSSIBLE:
        assert reasons[name].startswith("handler failed 10 times: "), name

    async def are_shown() -> bool:  # a moment after they are there; more often where one came again meanwhile
        return (await park.metrics("accounts")).value("dead_letters") >= before + len(poison)

    await wait_until(are_shown)
    assert (await letters(park, "shifts")).keys() & poison.keys() == of_both


async def test_events_that_nobody_knows_are_left_alone(park: Machine) -> None:
    subjects = ("callboard.shifts.shift_logged.v2", "callboard.weather.rain_fell.v1")
    names = {f"{subject}-{unique_id()}": subject for subject in subjects}
    for name, subject in names.items():
        await publish(park, name, subject, b"{}")
    user = unique_id()
    async with park.service("shifts") as client:
        await log(client, user)
    await wait_until(lambda: is_counted(park, user))
    assert not (await letters(park)).keys() & names
    assert await buried(park, user) == []


async def test_a_handler_with_a_bug_loses_nothing_and_once_mended_counts_what_was_put_aside(
    park: Machine,
) -> None:
    user = unique_id()
    park.arm("accounts", A_BUG)
    async with park.service("shifts") as shifts, park.service("accounts") as accounts:
        answer = await log(shifts, user)
        assert answer and answer.status_code == 200

        async def is_put_aside() -> bool:
            return bool(await buried(park, user))

        await wait_until(is_put_aside, seconds=60)
        assert (await accounts.get("/readyz")).status_code == 200
    (reason,) = await buried(park, user)
    assert reason == "handler failed 10 times: ValueError: a bug that the test put here"
    (found,) = await count(park, user)
    assert (found.shifts, found.ledger_entries, found.points) == (1, 0, 0)
    seen = await park.metrics("accounts")
    assert seen.value("events_redelivered") >= 9
    park.disarm("accounts", A_BUG)
    assert await replay(park.settings()) > 0
    await wait_until(lambda: is_counted(park, user))
