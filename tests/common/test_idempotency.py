"""Acts that are done once, however often a caller sends them with the same Idempotency-Key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import Request

from common.actors import Moderator
from common.errors import InvalidQuery, KeyReused, StillRunning
from common.idempotency import (
    IDEMPOTENCY,
    REMEMBERED,
    Attempt,
    IdempotencyRecords,
    Made,
    read_attempt,
)
from common.logs import key_name
from common.mongo import Database, Session, connect, migrate, transaction
from common.query import Id, Query
from common.settings import Settings
from common.storage.limits import StorageLimits
from tests.support import Servers, settings, unique_id

LIMITS = StorageLimits()
FIRST = Attempt("bot", "key-1", "one request")


class Grant(Query):
    """Parameters of an act."""

    id: Id
    moderator: Moderator


class LaterGrant(Grant):
    """The same in a version that knows one parameter more."""

    days: int | None = None


@asynccontextmanager
async def database(servers: Servers) -> AsyncIterator[Database]:
    """An empty database of a service that remembers Idempotency-Keys."""
    client, own = connect(settings(Settings, servers), f"idempotency_{unique_id()}")
    async with client:
        await migrate(own, [IDEMPOTENCY])
        yield own
        await client.drop_database(own.name)


async def act(own: Database, attempt: Attempt | None, *, fails: bool = False) -> Made:
    """An act that inserts a row in one transaction, once for each key."""
    records = IdempotencyRecords(own, LIMITS)

    async def work(session: Session) -> Made:
        if (made := await records.find(attempt, session)) is not None:
            return made
        row = await own["rows"].insert_one({}, session=session)
        made = {"row": str(row.inserted_id)}
        await records.add(session, attempt, made)
        if fails:
            raise RuntimeError("refused")
        return made

    return await transaction(own, work)


async def rows(own: Database) -> int:
    """How often the act was done."""
    return await own["rows"].count_documents({})


async def age(own: Database, by: timedelta) -> None:
    """Make every record so much older."""
    await own[IDEMPOTENCY.name].update_many({}, {"$set": {"at": datetime.now(UTC) - by}})


def request(key: str | None = "key-1", path: str = "/grant", *more: str) -> Request:
    """A request with these Idempotency-Keys."""
    keys = [one for one in (key, *more) if one is not None]
    headers = [(b"idempotency-key", one.encode()) for one in keys]
    return Request({"type": "http", "path": path, "headers": headers})


def attempt_of(grant: Query, path: str = "/grant", caller: str = "bot") -> Attempt:
    """The attempt of a request with the key "key-1"."""
    token = key_name.set(caller)
    try:
        attempt = read_attempt(request(path=path), grant)
    finally:
        key_name.reset(token)
    assert attempt is not None
    return attempt


def test_requests_that_ask_for_the_same_are_the_same_attempt() -> None:
    grant = Grant.model_validate({"id": "1", "moderator": "400"})
    assert attempt_of(grant) == attempt_of(Grant.model_validate({"id": 1, "moderator": "0400"}))


def test_another_caller_has_keys_of_its_own() -> None:
    grant = Grant.model_validate({"id": 1, "moderator": "400"})
    assert attempt_of(grant).id != attempt_of(grant, caller="console").id


@pytest.mark.parametrize("change", [{"id": 2}, {"moderator": "401"}, {"moderator": "roblox:400"}])
def test_other_parameters_are_another_request(change: dict[str, object]) -> None:
    given = {"id": 1, "moderator": "400"}
    changed = attempt_of(Grant.model_validate(given | change))
    assert changed.fingerprint != attempt_of(Grant.model_validate(given)).fingerprint


def test_another_route_is_another_request() -> None:
    grant = Grant.model_validate({"id": 1, "moderator": "400"})
    assert attempt_of(grant).fingerprint != attempt_of(grant, path="/revoke").fingerprint


def test_a_parameter_that_a_later_version_adds_changes_no_older_request() -> None:
    given = {"id": 1, "moderator": "400"}
    later = attempt_of(LaterGrant.model_validate(given))
    assert later == attempt_of(Grant.model_validate(given))


def test_an_empty_key_counts_as_absent() -> None:
    grant = Grant.model_validate({"id": 1, "moderator": "400"})
    assert read_attempt(request(""), grant) is None
    assert read_attempt(request(None), grant) is None


def test_a_key_that_is_repeated_or_too_long_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="more than once"):
        read_attempt(request("a", "/grant", "b"))
    with pytest.raises(InvalidQuery, match="at most 255"):
        read_attempt(request("a" * 256))


async def test_the_same_key_acts_once_and_answers_the_same(servers: Servers) -> None:
    async with database(servers) as own:
        made = await act(own, FIRST)
        assert await act(own, FIRST) == made
        assert await rows(own) == 1


async def test_many_requests_with_one_key_at_once_act_once(servers: Servers) -> None:
    async with database(servers) as own:
        answers = await asyncio.gather(*(act(own, FIRST) for _ in range(8)))
        assert all(answer == answers[0] for answer in answers)
        assert await rows(own) == 1


async def test_without_a_key_every_request_acts(servers: Servers) -> None:
    async with database(servers) as own:
        await act(own, None)
        await act(own, None)
        assert await rows(own) == 2


async def test_a_refusal_leaves_nothing_behind(servers: Servers) -> None:
    async with database(servers) as own:
        with pytest.raises(RuntimeError):
            await act(own, FIRST, fails=True)
        assert await own[IDEMPOTENCY.name].count_documents({}) == 0
        await act(own, replace(FIRST, fingerprint="another request"))
        assert await rows(own) == 1


async def test_a_key_that_was_used_for_another_request_is_refused(servers: Servers) -> None:
    async with database(servers) as own:
        await act(own, FIRST)
        with pytest.raises(KeyReused):
            await act(own, replace(FIRST, fingerprint="another request"))
        with pytest.raises(KeyReused):
            async with IdempotencyRecords(own, LIMITS).claim(replace(FIRST, fingerprint="another request")):
                pass


async def test_a_key_is_free_again_after_seven_days(servers: Servers) -> None:
    async with database(servers) as own:
        await act(own, FIRST)
        await age(own, REMEMBERED - timedelta(minutes=5))
        await act(own, FIRST)
        assert await rows(own) == 1
        await age(own, REMEMBERED)
        await act(own, replace(FIRST, fingerprint="another request"))
        assert await rows(own) == 2


async def claimed_act(own: Database, attempt: Attempt | None) -> Made:
    """An act that has an effect before its transaction."""
    async with IdempotencyRecords(own, LIMITS).claim(attempt) as claim:
        if claim.made is not None:
            return claim.made
        row = await own["rows"].insert_one({})
        made = {"row": str(row.inserted_id)}
        await transaction(own, lambda session: claim.finish(session, made))
        return made


async def test_a_claimed_act_is_done_once_and_answers_the_same(servers: Servers) -> None:
    async with database(servers) as own:
        answers = await asyncio.gather(*(claimed_act(own, FIRST) for _ in range(8)))
        answers.append(await claimed_act(own, FIRST))
        assert all(answer == answers[0] for answer in answers)
        assert await rows(own) == 1


async def test_without_a_key_every_claimed_act_is_done(servers: Servers) -> None:
    async with database(servers) as own:
        assert await claimed_act(own, None) != await claimed_act(own, None)


async def test_a_claimed_act_that_is_refused_leaves_nothing_behind(servers: Servers) -> None:
    async with database(servers) as own:
        with pytest.raises(RuntimeError):
            async with IdempotencyRecords(own, LIMITS).claim(FIRST):
                raise RuntimeError
        assert await own[IDEMPOTENCY.name].count_documents({}) == 0


async def test_an_act_that_fails_after_its_commit_is_remembered(servers: Servers) -> None:
    async with database(servers) as own:
        with pytest.raises(RuntimeError):
            async with IdempotencyRecords(own, LIMITS).claim(FIRST) as claim:
                await transaction(own, lambda session: claim.finish(session, {"row": "1"}))
                raise RuntimeError
        assert await claimed_act(own, FIRST) == {"row": "1"}


async def test_while_an_act_is_pending_others_with_its_key_wait_and_are_told_to_come_back(
    servers: Servers,
) -> None:
    hurried = StorageLimits(same_act_seconds=0.1)
    async with database(servers) as own, IdempotencyRecords(own, LIMITS).claim(FIRST):
        with pytest.raises(StillRunning):
            async with IdempotencyRecords(own, hurried).claim(FIRST):
                pass
        with pytest.raises(KeyReused):
            await claimed_act(own, replace(FIRST, fingerprint="another request"))
        assert await rows(own) == 0


async def test_an_act_that_was_broken_off_a_minute_ago_is_taken_over(servers: Servers) -> None:
    async with database(servers) as own, IdempotencyRecords(own, LIMITS).claim(FIRST) as slow:
        await age(own, timedelta(seconds=LIMITS.abandoned_act_seconds))
        made = await claimed_act(own, FIRST)
        with pytest.raises(StillRunning):
            await transaction(own, lambda session: slow.finish(session, {"row": "of the slow one"}))
        assert await claimed_act(own, FIRST) == made
