"""The people of the local plugins: those of the configuration at each start, imports, and who leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from pymongo import monitoring

from accounts.main import SERVICE
from accounts.models import KnownPerson, LocalPerson, PersonChange
from accounts.people import ImportRefused, begin, import_people, merge, remove_person
from accounts.repository import People
from common.errors import ConfigurationError
from common.group import Group, load_group
from common.mongo import Database, connect, migrate, transaction
from common.settings import Settings
from tests.accounts.builders import CAST, GUEST, MANAGER, TRAINEE, rank_changes
from tests.support import ROOT, Servers, settings, unique_id

SHIPPED = load_group(ROOT / "callboard.toml")
NEW_ID = 987_654_321

State = Mapping[int, tuple[str | None, int, int | None]]


@pytest.fixture(scope="module")
async def migrated(servers: Servers) -> AsyncIterator[Database]:
    """A database of accounts for this file alone."""
    client, own = connect(settings(Settings, servers), "accounts_people")
    async with client:
        await migrate(own, SERVICE.all_collections)
        yield own


@pytest.fixture
async def database(migrated: Database) -> Database:
    """The same, empty."""
    for collection in SERVICE.all_collections:
        await migrated[collection.name].delete_many({})
    return migrated


def configured(
    *people: tuple[int, str, str | int] | tuple[int, str, str | int, int], **plugins: Any
) -> Group:
    """The shipped configuration with these people (id, username, rank, and maybe Discord id) to begin with."""
    listed = [dict(zip(("id", "username", "rank", "discord"), person, strict=False)) for person in people]
    options = {**SHIPPED.plugins.options, "local": {"people": listed}}
    changed = SHIPPED.plugins.model_copy(update={"options": options, **plugins})
    return SHIPPED.model_copy(update={"plugins": changed})


async def known(database: Database) -> dict[int, tuple[str | None, int, int | None]]:
    """The username, rankid and Discord id of everybody whom the local plugins know."""
    return {one.id: (one.username, one.rankid, one.discord) async for one in People(database).all()}


async def account(database: Database, user: int) -> dict[str, Any] | None:
    """What is stored of a user."""
    return await database["accounts"].find_one({"id": user})


async def everything(database: Database) -> list[Any]:
    """All that is stored."""
    return [await database[one.name].find().sort("_id").to_list() for one in SERVICE.all_collections]


def lines(*people: Mapping[str, Any]) -> list[PersonChange]:
    """The people of an import."""
    return [PersonChange(**person) for person in people]


# ------------------------------------------------------------------- the people of the configuration

ANNA, BERT, CARL = (1, "Anna", "Guest"), (2, "Bert", "Cast Member", 2000), (3, "Carl", "Manager", 3000)
FIRST: State = {1: ("Anna", GUEST, None), 2: ("Bert", CAST, 2000), 3: ("Carl", MANAGER, 3000)}

EDITS: list[tuple[str, Group, State]] = [
    ("nothing", configured(ANNA, BERT, CARL), FIRST),
    (
        "an id",
        configured(ANNA, BERT, (NEW_ID, "Carl", "Manager", 3000)),
        {**FIRST, 3: (None, MANAGER, None), NEW_ID: ("Carl", MANAGER, 3000)},
    ),
    ("a name", configured(ANNA, BERT, (3, "Boss", "Manager", 3000)), {**FIRST, 3: ("Boss", MANAGER, 3000)}),
    (
        "the case of a name",
        configured(ANNA, BERT, (3, "CARL", "Manager", 3000)),
        {**FIRST, 3: ("CARL", MANAGER, 3000)},
    ),
    ("a rank", configured(ANNA, (2, "Bert", 10, 2000), CARL), {**FIRST, 2: ("Bert", TRAINEE, 2000)}),
    (
        "two names",
        configured((1, "Bert", "Guest"), (2, "Anna", "Cast Member", 2000), CARL),
        {**FIRST, 1: ("Bert", GUEST, None), 2: ("Anna", CAST, 2000)},
    ),
    (
        "two Discord ids",
        configured(ANNA, (2, "Bert", "Cast Member", 3000), (3, "Carl", "Manager", 2000)),
        {**FIRST, 2: ("Bert", CAST, 3000), 3: ("Carl", MANAGER, 2000)},
    ),
    (
        "all names in a circle",
        configured((1, "Bert", "Guest"), (2, "Carl", "Cast Member", 2000), (3, "Anna", "Manager", 3000)),
        {1: ("Bert", GUEST, None), 2: ("Carl", CAST, 2000), 3: ("Anna", MANAGER, 3000)},
    ),
    (
        "a Discord id that goes",
        configured(ANNA, (2, "Bert", "Cast Member"), CARL),
        {**FIRST, 2: ("Bert", CAST, None)},
    ),
    ("a person who goes", configured(ANNA, CARL), FIRST),
    ("all who go", configured(), FIRST),
    ("a person who comes", configured(ANNA, BERT, CARL, (4, "Dora", 20)), {**FIRST, 4: ("Dora", CAST, None)}),
]


@pytest.mark.parametrize(("group", "expected"), [pytest.param(*edit[1:], id=edit[0]) for edit in EDITS])
async def test_what_an_operator_edits_is_so_after_the_next_start(
    database: Database, group: Group, expected: State
) -> None:
    await begin(database, configured(ANNA, BERT, CARL))
    assert await known(database) == FIRST
    await begin(database, group)
    assert await known(database) == expected
    for user, (username, rankid, _) in expected.items():
        found = await account(database, user)
        if rankid > GUEST:
            assert found is not None
            assert (found["rankid"], found.get("username")) == (rankid, username)
        else:
            assert found is None


@pytest.mark.parametrize("group", [pytest.param(edit[1], id=edit[0]) for edit in EDITS])
async def test_another_start_with_the_same_file_changes_and_tells_nothing(
    database: Database, group: Group
) -> None:
    await begin(database, configured(ANNA, BERT, CARL))
    await begin(database, group)
    before = await everything(database)
    await begin(database, group)
    assert await everything(database) == before


async def test_an_edit_that_is_taken_back_is_taken_back(database: Database) -> None:
    first = configured(ANNA, BERT, CARL)
    await begin(database, first)
    await begin(database, configured(ANNA, BERT, (NEW_ID, "Carl", "Manager", 3000)))
    await begin(database, first)
    assert await known(database) == {**FIRST, NEW_ID: (None, MANAGER, None)}


async def test_what_was_imported_or_set_stays_as_long_as_the_file_says_the_same(database: Database) -> None:
    group = configured(ANNA, BERT, CARL)
    await begin(database, group)
    await import_people(database, group, lines({"id": 2, "username": "Robert", "rank": 40, "discord": None}))
    await People(database).set_rank(1, TRAINEE)
    await begin(database, group)
    assert await known(database) == {**FIRST, 1: ("Anna", TRAINEE, None), 2: ("Robert", MANAGER, None)}
    # What the file says anew is so; the rest of the person stays.
    await begin(database, configured(ANNA, (2, "Bertie", "Cast Member", 2000), CARL))
    assert (await known(database))[2] == ("Bertie", MANAGER, None)


async def test_somebody_who_was_imported_before_the_file_named_them_stays_as_imported(
    database: Database,
) -> None:
    await import_people(database, SHIPPED, lines({"id": 2, "username": "Robert", "rank": 40}))
    await begin(database, configured(ANNA, BERT, CARL))
    assert await known(database) == {**FIRST, 2: ("Robert", MANAGER, None)}


async def test_a_name_of_somebody_imported_is_handed_over_and_account_and_history_stay(
    database: Database,
) -> None:
    await import_people(database, SHIPPED, lines({"id": 7, "username": "carl", "rank": 20, "discord": 3000}))
    before = await account(database, 7)
    assert before is not None
    await database["ledger"].insert_one(
        {
            "_id": "e",
            "user": 7,
            "points": 5,
            "reason": "shift",
            "ref": "e",
            "at": before["created_at"],
            "by": "g",
        }
    )
    await begin(database, configured(CARL))
    assert await known(database) == {3: ("Carl", MANAGER, 3000), 7: (None, CAST, None)}
    after = await account(database, 7)
    assert after is not None
    assert (after["_id"], after["rankid"], "username" in after) == (before["_id"], CAST, False)
    assert await database["ledger"].count_documents({"user": 7}) == 1
    # Who has lost a name gets another one by import.
    await import_people(database, SHIPPED, lines({"id": 7, "username": "Carlos"}))
    assert (await known(database))[7] == ("Carlos", CAST, None)


async def test_a_person_without_a_name_is_not_found_by_the_number_that_is_shown_instead(
    database: Database,
) -> None:
    await begin(database, configured(CARL))
    await begin(database, configured((4, "Carl", "Manager")))
    assert await People(database).by_username("3") is None
    await import_people(database, SHIPPED, lines({"id": 5, "username": "3", "rank": "Guest"}))
    assert (await known(database))[3] == (None, MANAGER, 3000)


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        (configured((1, "Anna", "King")), 'people.0.rank: There is no rank "King"; there are: Guest'),
        (configured(ANNA, (1, "Bert", "Guest")), 'people: 2 people have the id "1"'),
        (configured(ANNA, (2, "ANNA", "Guest")), 'people: 2 people have the username "anna"'),
        (configured((1, "A", 0, 5), (2, "B", 0, 5)), 'people: 2 people have the discord "5"'),
    ],
)
async def test_a_mistake_in_the_file_is_one_sentence_with_its_key(
    database: Database, group: Group, sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        await begin(database, group)
    assert str(raised.value).startswith(f"callboard.toml: plugins.options.local.{sentence}")
    assert "\n" not in str(raised.value)
    assert await known(database) == {}


async def test_many_replicas_that_start_at_once_make_each_account_and_its_event_once(
    database: Database,
) -> None:
    people = [(user, f"P{user}", "Cast Member", 10_000 + user) for user in range(1, 31)]
    group = configured(*people)
    await asyncio.gather(*(begin(database, group) for _ in range(8)))
    assert await database["accounts"].count_documents({}) == len(people)
    assert [await rank_changes(database, user) for user, *_ in people] == [[CAST]] * len(people)


async def test_whoever_an_older_version_left_without_an_account_gets_one_at_the_start(
    database: Database,
) -> None:
    old = [
        {"_id": user, "username": f"P{user}", "username_key": f"p{user}", "rankid": rankid}
        for user, rankid in ((1, GUEST), (2, CAST), (3, MANAGER))
    ]
    await database["people"].insert_many(old)
    await begin(database, configured())
    assert await account(database, 1) is None
    found = [await account(database, user) for user in (2, 3)]
    assert [one and (one["rankid"], one["username"], one["points"]) for one in found] == [
        (CAST, "P2", 0),
        (MANAGER, "P3", 0),
    ]
    assert [await rank_changes(database, user) for user in (1, 2, 3)] == [[], [CAST], [MANAGER]]


async def test_where_others_rank_no_account_is_made_for_local_people(database: Database) -> None:
    group = configured(ANNA, BERT, CARL, ranking="roblox")
    await begin(database, group)
    await import_people(database, group, lines({"id": 8, "username": "Hugo", "rank": 40}))
    assert await database["accounts"].count_documents({}) == 0
    assert set(await known(database)) == {1, 2, 3, 8}


def test_with_nothing_to_begin_with_nothing_changes() -> None:
    someone = KnownPerson(id=1, username="Anna", rankid=0)
    assert merge([], {1: someone}) == []
    assert merge([(LocalPerson(id=2, username="Bert"), 0)], {}) != []


# ----------------------------------------------------------------------------------------- imports


async def test_usernames_and_discord_accounts_change_hands_in_one_import_in_any_order(
    database: Database,
) -> None:
    await import_people(
        database,
        SHIPPED,
        lines(*({"id": n, "username": f"P{n}", "rank": 20, "discord": 100 + n} for n in (1, 2, 3))),
    )
    turned = lines(
        {"id": 1, "username": "P2", "discord": 102},
        {"id": 2, "username": "P3", "discord": 103},
        {"id": 3, "username": "New", "discord": None},
        {"id": 4, "username": "P1", "rank": 10, "discord": 101},
    )
    expected = {1: ("P2", CAST, 102), 2: ("P3", CAST, 103), 3: ("New", CAST, None), 4: ("P1", TRAINEE, 101)}
    assert await import_people(database, SHIPPED, turned[::-1]) == (1, 3, 0)
    assert await known(database) == expected
    names = {one["id"]: one["username"] async for one in database["accounts"].find()}
    assert names == {user: name for user, (name, _, _) in expected.items()}
    assert await import_people(database, SHIPPED, turned) == (0, 0, 4)
    assert await known(database) == expected


async def test_names_change_hands_among_more_people_than_one_transaction_holds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.people._AT_ONCE", 2)
    everybody = range(1, 8)
    for shift in (0, 1, -1, 3):
        names = {user: f"P{(user + shift) % 7}" for user in everybody}
        people = lines(
            *(
                {"id": user, "username": names[user], "rank": 20, "discord": 100 + (user + shift) % 7}
                for user in everybody
            )
        )
        await import_people(database, SHIPPED, people)
        assert {user: name for user, (name, _, _) in (await known(database)).items()} == names
        assert {one["id"]: one["username"] async for one in database["accounts"].find()} == names
    assert [await rank_changes(database, user) for user in everybody] == [[CAST]] * 7


async def test_an_import_that_was_interrupted_is_completed_by_the_same_import(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.people._AT_ONCE", 2)
    people = [{"id": user, "username": f"P{user}", "rank": 20, "discord": 100 + user} for user in range(1, 6)]
    await import_people(database, SHIPPED, lines(*people))
    turned = [
        {**one, "rank": 40, "username": f"P{other}", "discord": 100 + other}
        for one, other in zip(people, (5, 4, 3, 2, 1), strict=True)
    ]
    with monkeypatch.context() as patch:
        patch.setattr("accounts.people.transaction", _ends_after(2))
        with pytest.raises(ConnectionError):
            await import_people(database, SHIPPED, lines(*turned))
    assert (await known(database))[5] == (None, CAST, None)
    assert await import_people(database, SHIPPED, lines(*turned)) == (0, 1, 4)
    assert {user: name for user, (name, _, _) in (await known(database)).items()} == {
        1: "P5",
        2: "P4",
        3: "P3",
        4: "P2",
        5: "P1",
    }
    assert [await rank_changes(database, user) for user in range(1, 6)] == [[CAST, MANAGER]] * 5


def _ends_after(steps: int) -> Callable[..., Any]:
    """Transactions, of which no more than so many come about."""
    left = iter(range(steps))

    async def limited(*given: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise ConnectionError
        return await transaction(*given, **options)

    return limited


async def test_what_an_import_does_not_say_stays(database: Database) -> None:
    await import_people(database, SHIPPED, lines({"id": 1, "username": "A", "rank": 20, "discord": 5}))
    await import_people(database, SHIPPED, lines({"id": 1, "rank": 40}))
    assert await known(database) == {1: ("A", MANAGER, 5)}
    await import_people(database, SHIPPED, lines({"id": 1, "username": "B"}))
    assert await known(database) == {1: ("B", MANAGER, 5)}
    await import_people(database, SHIPPED, lines({"id": 1, "discord": None}))
    assert await known(database) == {1: ("B", MANAGER, None)}


async def test_all_that_speaks_against_an_import_is_told_and_nobody_is_changed(database: Database) -> None:
    await import_people(database, SHIPPED, lines({"id": 1, "username": "Anna", "rank": 20, "discord": 5}))
    before = await everything(database)
    with pytest.raises(ImportRefused) as raised:
        await import_people(
            database,
            SHIPPED,
            lines(
                {"id": 2, "username": "ANNA", "rank": 20},
                {"id": 3, "username": "Carl", "rank": 20},
                {"id": 4, "username": "Dora", "rank": 20, "discord": 5},
                {"id": 6},
            ),
        )
    assert [(one.which, one.field) for one in raised.value.conflicts] == [
        (0, "username"),
        (2, "discord"),
        (3, "username"),
        (3, "rank"),
    ]
    assert all("the person with the id 1 has it" in one.reason for one in raised.value.conflicts[:2])
    assert await everything(database) == before


async def test_an_import_gives_everybody_above_the_lowest_rank_an_account_and_tells_each_rank_once(
    database: Database,
) -> None:
    people = lines(
        {"id": 1, "username": "A", "rank": "Guest"},
        {"id": 2, "username": "B", "rank": "Cast Member"},
        {"id": 3, "username": "C", "rank": "Manager"},
    )
    for _ in range(2):
        await import_people(database, SHIPPED, people)
    assert [one["id"] async for one in database["accounts"].find().sort("id")] == [2, 3]
    assert [await rank_changes(database, user) for user in (1, 2, 3)] == [[], [CAST], [MANAGER]]
    await import_people(database, SHIPPED, lines({"id": 3, "rank": "Guest"}, {"id": 2, "rank": 20}))
    assert [await rank_changes(database, user) for user in (1, 2, 3)] == [[], [CAST], [MANAGER, GUEST]]


class Counter(monitoring.CommandListener):
    """The commands that are sent to MongoDB."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Note it."""
        self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing more to note."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing more to note."""


async def commands_of(
    servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch, people: Sequence[PersonChange]
) -> list[str]:
    """What one import sends to MongoDB."""
    counter = Counter()
    with monkeypatch.context() as patch:
        patch.setattr("common.mongo._Client", _listened(counter))
        client, database = connect(settings(Settings, servers), name)
        async with client:
            await import_people(database, SHIPPED, people)
    handshakes = {"hello", "ismaster", "saslStart", "saslContinue", "endSessions", "ping"}
    return [name for name in counter.names if name not in handshakes]


def _listened(counter: Counter) -> Callable[..., Any]:
    from common.mongo import _Client

    return lambda *given, **options: _Client(*given, event_listeners=[counter], **options)


async def test_an_import_of_many_who_have_accounts_waits_for_mongodb_a_few_times(
    servers: Servers, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [unique_id() for _ in range(600)]
    await import_people(
        database, SHIPPED, lines(*({"id": user, "username": f"A{user}", "rank": 20} for user in users))
    )
    changed = lines(*({"id": user, "username": f"B{user}", "rank": 30, "discord": user} for user in users))
    few = await commands_of(servers, database.name, monkeypatch, changed[:200])
    many = await commands_of(servers, database.name, monkeypatch, changed[200:])
    assert len(few) <= 12, few
    assert len(many) == 2 * len(few), many
    assert await database["accounts"].count_documents({"rankid": 30}) == len(users)


# ---------------------------------------------------------------------------------------- who leaves


async def test_who_is_removed_keeps_account_and_history_and_has_the_lowest_rank(database: Database) -> None:
    await begin(database, configured(CARL))
    before = await account(database, 3)
    assert before is not None
    removed = await remove_person(database, SHIPPED, 3)
    assert removed is not None
    assert removed.username == "Carl"
    assert await known(database) == {}
    after = await account(database, 3)
    assert after is not None
    assert (after["_id"], after["username"], after["rankid"]) == (before["_id"], "Carl", GUEST)
    assert await rank_changes(database, 3) == [MANAGER, GUEST]
    assert await remove_person(database, SHIPPED, 3) is None
    assert await rank_changes(database, 3) == [MANAGER, GUEST]


async def test_the_name_of_somebody_removed_is_free(database: Database) -> None:
    await begin(database, configured(CARL))
    await remove_person(database, SHIPPED, 3)
    await import_people(database, SHIPPED, lines({"id": 9, "username": "Carl", "rank": 20, "discord": 3000}))
    assert await known(database) == {9: ("Carl", CAST, 3000)}
