"""Which errors of MongoDB are the fault of one item of a batch."""

import pymongo
import pytest
from pymongo.errors import PyMongoError

from common.mongo import connect, is_outage, is_own_error
from common.settings import Settings
from tests.support import Servers, settings, unique_id

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
