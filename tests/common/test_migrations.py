"""What a migration does to a database, and what a service that starts wants to find there."""

from collections.abc import AsyncIterator, Sequence

import pytest
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import WriteError

from common.errors import ConfigurationError
from common.mongo import Collection, Database, check_migrated, connect, migrate
from common.settings import Settings
from tests.support import Servers, settings, unique_id

PLAIN = IndexModel([("user", ASCENDING)], name="by_user")
SCHEMA = {"bsonType": "object", "required": ["user"]}
OLDER = Collection("things", indexes=(PLAIN,), schema=SCHEMA)
NEWER = Collection(
    "things",
    indexes=(IndexModel([("user", ASCENDING), ("at", ASCENDING)], name="by_user_and_time"),),
    schema={"bsonType": "object", "required": ["user", "at"]},
    version=2,
    retired_indexes=("by_user",),
)


@pytest.fixture
async def database(servers: Servers) -> AsyncIterator[Database]:
    """An empty database of its own."""
    client, database = connect(settings(Settings, servers), f"migrations_{unique_id()}")
    async with client:
        yield database
        await client.drop_database(database.name)


async def names(database: Database) -> set[str]:
    """The indexes that there are, but for MongoDB's own."""
    return set(await database["things"].index_information()) - {"_id_"}


async def test_a_service_starts_beside_a_database_that_a_newer_version_migrated(database: Database) -> None:
    await migrate(database, [OLDER])
    await check_migrated(database, [OLDER])
    await migrate(database, [NEWER])
    for collections in ([OLDER], [NEWER]):
        await check_migrated(database, collections)


async def test_a_migration_of_an_older_version_leaves_alone_what_a_newer_one_made(database: Database) -> None:
    await migrate(database, [NEWER])
    await migrate(database, [OLDER])
    await check_migrated(database, [NEWER])
    assert await names(database) == {"by_user_and_time"}
    with pytest.raises(WriteError):
        await database["things"].insert_one({"user": 1})


async def test_what_a_service_finds_of_an_older_version_it_refuses_until_it_is_migrated(
    database: Database,
) -> None:
    await migrate(database, [OLDER])
    with pytest.raises(ConfigurationError, match='the present validator of things: run "callboard migrate"'):
        await check_migrated(database, [NEWER])
    for _ in range(2):
        await migrate(database, [NEWER])
        await check_migrated(database, [NEWER])
        assert await names(database) == {"by_user_and_time"}


@pytest.mark.parametrize("description", [None, "callboard", "callboard x", "theirs 3"])
async def test_a_validator_that_does_not_say_its_version_is_an_older_one(
    description: str | None, database: Database
) -> None:
    schema = SCHEMA if description is None else {**SCHEMA, "description": description}
    await database.create_collection("things", validator={"$jsonSchema": schema})
    with pytest.raises(ConfigurationError, match="validator of things"):
        await check_migrated(database, [OLDER])
    await migrate(database, [OLDER])
    await check_migrated(database, [OLDER])


async def test_a_newer_version_may_give_a_schema_to_a_collection_without_one(database: Database) -> None:
    bare = Collection("things", indexes=(PLAIN,))
    await migrate(database, [bare])
    await check_migrated(database, [bare])
    await migrate(database, [NEWER])
    await check_migrated(database, [bare])


PARTIAL = {"at": {"$type": "date"}}
OTHERS = [
    (IndexModel([("user", DESCENDING)], name="by_user"), "keys"),
    (IndexModel([("user", ASCENDING), ("at", ASCENDING)], name="by_user"), "keys"),
    (IndexModel([("user", ASCENDING)], name="by_user", unique=True), "unique True instead of False"),
    (
        IndexModel([("user", ASCENDING)], name="by_user", expireAfterSeconds=60),
        "expireAfterSeconds 60 instead of",
    ),
    (
        IndexModel([("user", ASCENDING)], name="by_user", partialFilterExpression=PARTIAL),
        "partialFilterExpression",
    ),
]


@pytest.mark.parametrize(("index", "what"), OTHERS)
async def test_an_index_with_other_options_is_named_with_what_differs(
    index: IndexModel, what: str, database: Database
) -> None:
    await migrate(database, [OLDER])
    await database["things"].drop_index("by_user")
    await database["things"].create_indexes([index])
    with pytest.raises(ConfigurationError, match=f"index by_user of things .it has {what}"):
        await check_migrated(database, [OLDER])
    with pytest.raises(ConfigurationError, match=f"by_user of things with {what}.*: drop it, and run"):
        await migrate(database, [OLDER])
    await database["things"].drop_index("by_user")
    await migrate(database, [OLDER])
    await check_migrated(database, [OLDER])


@pytest.mark.parametrize(
    "indexes",
    [
        [IndexModel([("user", ASCENDING)], name="new", expireAfterSeconds=60)],
        [IndexModel([("user", ASCENDING)], name="new", unique=True)],
        [IndexModel([("user", DESCENDING)], name="new")],
        [],
    ],
)
async def test_an_index_whose_options_change_has_another_name_and_the_old_one_goes(
    indexes: Sequence[IndexModel], database: Database
) -> None:
    await migrate(database, [OLDER])
    changed = Collection("things", indexes=indexes, schema=SCHEMA, version=2, retired_indexes=("by_user",))
    for _ in range(2):
        await migrate(database, [changed])
        await check_migrated(database, [changed])
    assert await names(database) == {index.document["name"] for index in indexes}


async def test_further_indexes_are_left_alone(database: Database) -> None:
    await migrate(database, [OLDER])
    await database["things"].create_index("somebody_else_s", name="theirs")
    await migrate(database, [OLDER])
    await check_migrated(database, [OLDER])
    assert await names(database) == {"by_user", "theirs"}
