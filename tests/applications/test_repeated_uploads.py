"""POST /application/upload with an Idempotency-Key: sent again, it is the same application."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from applications.plugins.store import Store
from common.errors import Unavailable
from common.idempotency import REMEMBERED
from common.storage.limits import StorageLimits
from tests.applications.builders import Park, act_headers, four_answers, park, refusing_events
from tests.support import Servers, unique_id, wait_until

ABANDONED = StorageLimits().abandoned_act_seconds * 10  # the patience of this folder
IN_USE = '{"status":"error","message":"this Idempotency-Key was used for another request"}'
STILL_RUNNING = "an earlier request with this Idempotency-Key is still running, try again"


def new_key() -> str:
    return f"upload-{unique_id()}"


def is_replayed(answer: httpx.Response) -> bool:
    return answer.headers.get_list("Idempotent-Replayed") == ["true"]


async def remembered(here: Park, key: str) -> list[Any]:
    return await here.database["idempotency"].find({"_id": f"game:{key}"}).to_list()


async def make_older(here: Park, key: str, age: timedelta) -> None:
    """As if the last request with this key had come so long ago."""
    change = {"$set": {"at": datetime.now(UTC) - age}}
    assert (await here.database["idempotency"].update_one({"_id": f"game:{key}"}, change)).matched_count


async def test_an_upload_sent_again_is_the_same_application(shared_park: Park) -> None:
    user, key = unique_id(), new_key()
    first = await shared_park.upload(user, key=key)
    again = [await shared_park.upload(user, key=key) for _ in range(2)]
    assert not is_replayed(first)
    assert all(is_replayed(one) for one in again)
    assert {one.text for one in again} == {first.text}
    (record,) = await shared_park.records(user)
    assert record["url"] == first.json()["url"]
    assert len(await shared_park.events(user, "application_submitted")) == 1


async def test_a_replica_gives_the_answer_of_another(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here, park(servers) as there:
        first, again = await here.upload(user, key=key), await there.upload(user, key=key)
        assert len(await here.records(user)) == 1
    assert again.text == first.text
    assert is_replayed(again)


async def test_the_same_answers_in_another_form_are_the_same_upload(shared_park: Park) -> None:
    user, key = unique_id(), new_key()
    first = await shared_park.upload(user, key=key)
    again = await shared_park.client.post(
        "/application/upload",
        params={"id": user},
        data=dict(reversed(four_answers(ignored="x").items())),
        headers=act_headers(key, "game"),
    )
    assert again.text == first.text
    assert is_replayed(again)


async def test_the_key_of_another_upload_is_refused(shared_park: Park) -> None:
    user, other, key = unique_id(), unique_id(), new_key()
    await shared_park.upload(user, key=key)
    for answer in (
        await shared_park.upload(user, key=key, q4="Yes."),
        await shared_park.upload(other, key=key),
    ):
        assert (answer.status_code, answer.text) == (422, IN_USE)
    assert len(await shared_park.records(user)) == 1
    assert await shared_park.records(other) == []


async def test_keys_of_different_callers_do_not_meet_and_without_one_every_upload_is_new(
    shared_park: Park,
) -> None:
    user, key = unique_id(), new_key()
    answers = [await shared_park.upload(user, key=key, caller=caller) for caller in ("game", "bot")]
    answers += [await shared_park.upload(user, key=given) for given in (None, None, "")]
    assert not [one for one in answers if is_replayed(one)]
    assert len({one.text for one in answers}) == len(await shared_park.records(user)) == 5


async def test_many_of_the_same_upload_at_once_are_one_application(servers: Servers) -> None:
    user, key = unique_id(), new_key()
    async with park(servers) as here, park(servers) as there:
        answers = await asyncio.gather(*(one.upload(user, key=key) for one in (here, there) * 4))
        assert {one.status_code for one in answers} == {200}
        assert len({one.text for one in answers}) == 1
        assert sum(map(is_replayed, answers)) == 7
        assert len(await here.records(user)) == 1
        assert len(await here.events(user, "application_submitted")) == 1


@pytest.mark.parametrize("refused", [{"q1": "x" * 5000}, {"q2": " "}])
async def test_a_refused_upload_leaves_its_key_free(shared_park: Park, refused: dict[str, str]) -> None:
    user, key = unique_id(), new_key()
    assert (await shared_park.upload(user, key=key, **refused)).status_code == 400
    assert await remembered(shared_park, key) == []
    answer = await shared_park.upload(user, key=key)
    assert answer.status_code == 200
    assert not is_replayed(answer)


async def test_a_key_that_is_too_long_or_given_twice_is_refused(shared_park: Park) -> None:
    user = unique_id()
    assert (await shared_park.upload(user, key="k" * 256)).status_code == 400
    twice = await shared_park.client.post(
        "/application/upload",
        params={"id": user},
        json=four_answers(),
        headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")],
    )
    assert twice.status_code == 400
    assert await shared_park.records(user) == []


async def test_where_the_text_cannot_be_kept_the_key_is_free_at_once(
    shared_park: Park, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = unique_id(), new_key()

    async def cannot(*_: object) -> str:
        raise Unavailable("documents")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", cannot)
        assert (await shared_park.upload(user, key=key)).status_code == 503
    assert await remembered(shared_park, key) == []
    answer = await shared_park.upload(user, key=key)
    assert answer.status_code == 200
    assert not is_replayed(answer)


async def test_record_event_and_key_are_stored_together_or_not_at_all(shared_park: Park) -> None:
    user, key = unique_id(), new_key()
    async with refusing_events(shared_park.database):
        assert (await shared_park.upload(user, key=key)).status_code == 500
    assert await shared_park.records(user) == []
    assert await remembered(shared_park, key) == []
    answer = await shared_park.upload(user, key=key)
    assert answer.status_code == 200
    assert not is_replayed(answer)
    assert len(await shared_park.events(user, "application_submitted")) == 1


class SlowStore:
    """Texts are kept only once they `may_go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.may_go_on = asyncio.Event()
        publish = Store.publish

        async def slow(store: Store, text: str) -> str:
            self.asked += 1
            if self.asked == 1:
                await self.may_go_on.wait()
            return await publish(store, text)

        monkeypatch.setattr(Store, "publish", slow)


async def test_while_the_first_is_slow_a_repeat_is_told_to_come_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, user, key = SlowStore(monkeypatch), unique_id(), new_key()
    hurried = StorageLimits(answer_seconds=20, same_act_seconds=0)
    async with park(servers, patience=10, storage=hurried) as here:
        first = asyncio.create_task(here.upload(user, key=key))
        await wait_until(lambda: store.asked == 1)
        early = await here.upload(user, key=key)
        store.may_go_on.set()
        assert (early.status_code, early.json()["message"]) == (503, STILL_RUNNING)
        assert early.headers["Retry-After"] == "1"
        again = await here.upload(user, key=key) if (await first).status_code == 200 else None
        assert again is not None and again.text == first.result().text
        assert len(await here.records(user)) == 1


async def test_an_upload_that_was_broken_off_is_taken_over_and_then_stores_nothing(
    shared_park: Park, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, user, key = SlowStore(monkeypatch), unique_id(), new_key()
    first = asyncio.create_task(shared_park.upload(user, key=key))
    await wait_until(lambda: store.asked == 1)
    await make_older(shared_park, key, timedelta(seconds=ABANDONED + 1))
    second = await shared_park.upload(user, key=key)
    store.may_go_on.set()
    assert (await first).status_code == 503
    assert second.status_code == 200
    assert not is_replayed(second)
    (record,) = await shared_park.records(user)
    assert record["url"] == second.json()["url"]
    assert len(await shared_park.events(user, "application_submitted")) == 1
    assert (await shared_park.upload(user, key=key)).text == second.text


async def test_a_caller_who_hangs_up_leaves_the_key_free(
    shared_park: Park, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, user, key = SlowStore(monkeypatch), unique_id(), new_key()
    first = asyncio.create_task(shared_park.upload(user, key=key))
    await wait_until(lambda: store.asked == 1)
    first.cancel()
    await asyncio.wait([first])
    answer = await shared_park.upload(user, key=key)
    assert answer.status_code == 200
    assert not is_replayed(answer)


async def test_a_key_is_remembered_for_seven_days_whatever_mongodb_has_removed_by_then(
    shared_park: Park,
) -> None:
    user, key = unique_id(), new_key()
    first = await shared_park.upload(user, key=key)
    await make_older(shared_park, key, REMEMBERED - timedelta(minutes=1))
    assert (await shared_park.upload(user, key=key)).text == first.text
    await make_older(shared_park, key, REMEMBERED + timedelta(seconds=1))
    new = await shared_park.upload(user, key=key)
    assert new.status_code == 200
    assert not is_replayed(new)
    assert new.text != first.text
    assert len(await shared_park.records(user)) == 2
    assert (await shared_park.upload(user, key=key)).text == new.text


async def test_what_is_remembered_of_an_upload_holds_neither_its_text_nor_its_url(shared_park: Park) -> None:
    user, key = unique_id(), new_key()
    url = (await shared_park.upload(user, key=key, q1="The canary sings.")).json()["url"]
    (record,) = await remembered(shared_park, key)
    (application,) = await shared_park.records(user)
    assert record["made"] == {"application": application["_id"]}
    for secret in ("canary", url.rpartition("/")[2]):
        assert secret not in str(record)
