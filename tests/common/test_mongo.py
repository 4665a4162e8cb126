"""Which errors of MongoDB are the fault of one item of a batch."""

import pymongo
import pytest
from pymongo.errors import PyMongoError

from common.errors import Locked
from common.mongo import Session, connect, is_outage, is_own_error, transaction
from common.settings import Settings
from tests.support import Servers, settings, unique_id, wait_until

MEGABYTE = 2**20


async def test_an_answer_that_a_batch_makes_too_large_is_no_outage_and_each_item_may_be_tried_alone(
    servers: Servers,
) -> None:
    client, database = connect(settings(Settings, servers), f"mongo_{unique_id()}")
    async with client:
        await database["long"].insert_one({"text": "x" * MEGABYTE})
        looks = [{"$lookup": {"from": "long", "pipeline": [], "as": f"of_{item}"}} for item in range(17)]
        with pytest.raises(PyMongoError) as raised, pymongo.timeout(60):
            await (await database.aggregate([{"$documents": [{}]}, *looks])).to_list()
        await client.drop_database(database.name)
    assert is_own_error(raised.value)
    assert not is_outage(raised.value)


@pytest.mark.parametrize("given", [{}, {"locked_seconds": 0.1}], ids=["when the time is up", "soon"])
async def test_a_document_that_another_transaction_holds_is_locked_and_no_outage(
    servers: Servers, given: dict[str, float]
) -> None:
    client, database = connect(settings(Settings, servers), f"mongo_{unique_id()}")
    attempts = 0

    async def take(session: Session) -> None:
        nonlocal attempts
        attempts += 1
        await database["held"].update_one({"_id": 1}, {"$set": {"attempt": unique_id()}}, session=session)

    async def is_locked() -> bool:
        """Whether the lock was met; a machine that pauses may be too late for that, as MongoDB ends it after 5 s."""
        nonlocal attempts
        async with client.start_session() as dead:
            await dead.start_transaction()
            await take(dead)
            attempts = 0
            try:
                with pymongo.timeout(1.5):
                    await transaction(database, take, **given)
            except Exception as error:
                if attempts < 2 and is_outage(error):
                    return False
                assert isinstance(error, Locked)
                assert is_own_error(error) and not is_outage(error)
                return True
        return False

    async with client:
        await database["held"].insert_one({"_id": 1})
        await wait_until(is_locked, 60)
        await transaction(database, take)
        await client.drop_database(database.name)
