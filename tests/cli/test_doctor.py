"""`callboard doctor`: what is right, what is wrong, and how to mend it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import nats
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from callboard import doctor
from callboard.access import open_database
from callboard.databases import collections_of, migrate_all, migrate_database
from callboard.doctor import examine, verdict
from callboard.status import status
from common.plugins import Finding
from common.settings import Settings
from tests.cli.machine import CALLBOARD, run
from tests.gateway.builders import changed_config, served
from tests.standins.roblox import KEY, Roblox, roblox
from tests.support import ROOT, Servers, settings, unique_id
from tests.support.nats_servers import nats_with

PLUGIN = """
import asyncio
from fractions import Fraction

from pydantic import BaseModel

from common.errors import Unavailable
from common.plugins import Finding


class Options(BaseModel):
    does: str


class Examined:
    def __init__(self, context):
        self._does = context.options(Options).does
        self._database = context.database

    async def __aenter__(self):
        if self._does == "stays outside":
            raise Unavailable("the moon")
        return self

    async def __aexit__(self, *_):
        return

    def points(self, credited_seconds, *, training):
        return Fraction(0)

    async def examine(self):
        yield Finding(True, "the sun shines")
        yield Finding(True, "the moon wanes", "Wait for it.")
        if self._does == "finds":
            yield Finding(False, "the stars are gone", "Switch them on.")
        if self._does == "raises":
            raise ValueError("https://discord.example/the-secret")
        if self._does == "hangs":
            await asyncio.sleep(3600)
        if self._does == "asks MongoDB":
            await self._database["people"].find_one()
"""
ENTRY_POINTS = "[callboard.points]\nexamined = examined_points:Examined\n"
METADATA = "Metadata-Version: 2.1\nName: examined-points\nVersion: 1.0\n"
PER_MINUTE = "[plugins.options.per_minute]"

Lines = list[tuple[str, str, str]]
"""Verdict, what was looked at, and how to mend it."""


@pytest.fixture
def environment(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables that lead to the servers of this run; a test changes them as it likes."""
    for name, value in variables(servers).items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def variables(servers: Servers) -> dict[str, str]:
    return {
        "CALLBOARD_MONGO_URL": servers.mongo_url,
        "CALLBOARD_NATS_URL": servers.nats_url,
        "CALLBOARD_INTERNAL_TOKEN": servers.internal_token,
        "CALLBOARD_CONFIG": str(ROOT / "callboard.toml"),
        "CALLBOARD_PUBLIC_URL": "http://127.0.0.1:1",
    }


async def told(given: Path | None = None) -> Lines:
    """All lines, in their order."""
    found: list[Finding] = []
    await examine(given, found.append)
    return [(verdict(one), one.what, one.mend) for one in found]


async def command(**changes: str) -> tuple[int, Lines]:
    """The status and the lines of `callboard doctor --json` with these variables."""
    answer = await run(CALLBOARD, "doctor", "--json", **changes)
    assert answer.error == ""
    report = json.loads(answer.out)
    assert report["ok"] is (answer.status == 0)
    return answer.status, [(line["verdict"], line["what"], line["mend"]) for line in report["lines"]]


def only(lines: Lines, word: str) -> list[str]:
    """What has this verdict."""
    return [what for given, what, _ in lines if given == word]


# ------------------------------------------------------------------------------- MongoDB, NATS, the URL


async def test_each_service_that_answers_is_a_line_that_is_right(
    servers: Servers, environment: pytest.MonkeyPatch
) -> None:
    await migrate_all(settings(Settings, servers))
    healthy = Starlette(routes=[Route("/healthz", lambda _: JSONResponse({"status": "ok"}))])
    async with served(healthy) as url:
        environment.setenv("CALLBOARD_PUBLIC_URL", url)
        lines = await told()
    assert only(lines, "wrong") == []
    right = "\n".join(only(lines, "right"))
    for what in (
        f"{ROOT / 'callboard.toml'} is valid.",
        "These plugins load: local (identity), local (ranking)",
        "The clocks of this machine and of MongoDB's agree.",
        "The databases are up to date.",
        "NATS 2.",
        f"{url}/healthz answers.",
    ):
        assert what in right
    assert f"Roblox's servers cannot reach {url}/." in only(lines, "warning")


async def test_what_does_not_answer_is_wrong_and_the_rest_is_looked_at(servers: Servers) -> None:
    away = {
        "CALLBOARD_MONGO_URL": "mongodb://somebody:a-password@127.0.0.1:1/?replicaSet=x",
        "CALLBOARD_NATS_URL": "nats://somebody:a-password@127.0.0.1:1",
    }
    _, lines = await command(**variables(servers) | away)
    wrong = only(lines, "wrong")
    assert [line.partition(":")[0] for line in wrong] == [
        "MongoDB does not answer",
        "NATS does not answer",
        "http",
    ], lines
    assert wrong[2].startswith("http://127.0.0.1:1/healthz does not answer: ")
    assert all(mend for word, _, mend in lines if word != "right")
    assert "a-password" not in str(lines)


NO_JETSTREAM = {"jetstream {": "# jetstream {"}
NO_QUESTIONS = {
    "{ user": '{ users: [{ permissions: { publish: { deny: "$JS.API.INFO" } }, user',
    '" }\njetstream': '" }] }\njetstream',
}

NO_LEADER = {
    "jetstream {": 'cluster { name: alone, listen: "127.0.0.1:-1", routes: ["nats://127.0.0.1:1"] }\njetstream {'
}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (NO_JETSTREAM, "NATS runs without JetStream."),
        (NO_QUESTIONS, "NATS does not tell of its JetStream: nats: timeout."),
        (NO_LEADER, "NATS does not tell of its JetStream: nats: timeout."),
    ],
)
async def test_a_nats_that_keeps_no_events_is_told_from_one_that_does_not_say(
    changes: Mapping[str, str], what: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with nats_with(tmp_path, changes) as server:
        environment.setenv("CALLBOARD_NATS_URL", server.url)
        lines = await told()
    assert any(line.startswith("NATS 2.") for line in only(lines, "right"))
    assert [line for line in only(lines, "wrong") if line.startswith("NATS")] == [what]


async def test_a_stream_that_does_not_fit_is_told_with_the_setting_to_change(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_room = {"sync_interval: always": "sync_interval: always, max_file_store: 100M"}
    async with nats_with(tmp_path, no_room) as server:
        environment.setenv("CALLBOARD_NATS_URL", server.url)
        (line,) = [what for what in only(await told(), "wrong") if "stream" in what]
        assert "set CALLBOARD_STREAM_MAX_BYTES to less" in line
        environment.setenv("CALLBOARD_STREAM_MAX_BYTES", str(1 << 20))
        assert any("has room for the stream CALLBOARD" in what for what in only(await told(), "right"))
        assert "The stream CALLBOARD is as it should be, and has room." in only(await told(), "right")
        environment.setenv("CALLBOARD_STREAM_MAX_BYTES", str(1 << 30))
        lines = only(await told(), "warning")
        assert any("CALLBOARD_STREAM_MAX_BYTES: 1048576 instead of 1073741824" in what for what in lines)
        async with await nats.connect(server.url) as client:
            for _ in range(10):
                await client.jetstream(timeout=60).publish("callboard.filler.v1", b"x" * 100_000)
        environment.setenv("CALLBOARD_STREAM_MAX_BYTES", str(1 << 20))
        assert any("is nearly full" in what for what in only(await told(), "warning"))


@pytest.mark.usefixtures("environment")
async def test_an_event_that_nats_refuses_is_named_with_the_reason(servers: Servers) -> None:
    own = settings(Settings, servers)
    await migrate_all(own)
    event = {"_id": str(unique_id()), "subject": "x.y", "payload": b"a secret", "sent": False}
    async with open_database(own, "applications") as database:
        await database["outbox"].insert_one({**event, "refused": "x.y: nats: maximum payload exceeded"})
        lines, counted = await told(), await status(own, None)
        await database["outbox"].delete_one({"_id": event["_id"]})
    assert counted.refused_events and counted.refused_events["applications"] >= 1
    assert (
        f"NATS refuses the event {event['_id']} of applications, which waits: x.y: nats: maximum payload exceeded."
        in only(lines, "wrong")
    )
    assert "a secret" not in str(lines)


@pytest.mark.usefixtures("environment")
async def test_an_index_that_is_missing_is_named(servers: Servers) -> None:
    own = settings(Settings, servers)
    await migrate_all(own)
    collection = next(one for one in collections_of("applications") if one.indexes)
    name = collection.indexes[0].document["name"]
    async with open_database(own, "applications") as database:
        await database[collection.name].drop_index(name)
    lines = await told()
    await migrate_database(own, "applications")
    lacks = f'Database "applications" lacks the index {name} of {collection.name}: run "callboard migrate".'
    assert lacks in only(lines, "wrong")
    assert "The databases are up to date." not in only(lines, "right")


async def test_clocks_that_differ_are_wrong(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(doctor, "_CLOCK_TOLERANCE_SECONDS", -1)
    wrong = "\n".join(only(await told(), "wrong"))
    assert re.search(r"The clocks of this machine and of MongoDB's differ by \d s\.", wrong)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (RedirectResponse("https://elsewhere.example/"), "answered 307, a redirect to https://elsewhere"),
        (Response("It works!"), "answered 200, and not as Callboard does."),
        (Response("Bad Gateway", 502), "answered 502, and not as Callboard does."),
    ],
)
async def test_something_else_at_the_public_url_is_told_apart(
    answer: Response, what: str, environment: pytest.MonkeyPatch
) -> None:
    async with served(Starlette(routes=[Route("/healthz", lambda _: answer)])) as url:
        environment.setenv("CALLBOARD_PUBLIC_URL", url)
        (line,) = [line for line in only(await told(), "wrong") if line.startswith(url)]
    assert what in line


@pytest.mark.parametrize(
    ("url", "warnings"),
    [
        ("https://localhost:8443", {"Roblox's servers cannot reach https://localhost:8443/."}),
        ("http://192.168.1.7", {"Roblox's servers cannot reach http://192.168.1.7/."}),
        (
            "http://park.invalid:1194",
            {
                "Keys travel in clear text to http://park.invalid:1194/.",
                "Roblox's servers may not use port 1194.",
            },
        ),
        ("https://park.invalid:444", {"Roblox's servers may not use port 444."}),
        ("https://park.invalid:2053", set()),
    ],
)
async def test_a_url_that_roblox_cannot_use_is_a_warning(
    url: str, warnings: set[str], environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(doctor, "_ask", lambda _: asyncio.sleep(0, Finding(True, "asked")))
    environment.setenv("CALLBOARD_PUBLIC_URL", url)
    found = {line for line in only(await told(), "warning") if "Roblox" in line or "Keys" in line}
    assert found == warnings


# ------------------------------------------------------------------------------------------- plugins


def install(folder: Path) -> None:
    """Put the plugin into the folder, as pip would."""
    information = folder / "examined_points-1.0.dist-info"
    information.mkdir()
    (folder / "examined_points.py").write_text(PLUGIN, "utf-8")
    (information / "entry_points.txt").write_text(ENTRY_POINTS, "utf-8")
    (information / "METADATA").write_text(METADATA, "utf-8")


def config_of(folder: Path, does: str) -> Path:
    """A configuration that names the plugin, and what it is to do."""
    changes = {
        '"per_minute"': '"examined"',
        PER_MINUTE: f'[plugins.options.examined]\ndoes = "{does}"',
        "\npoints = 1\ntraining_points = 0\n": "\n",
    }
    return changed_config(folder, changes)


@pytest.fixture
def installed(tmp_path: Path, environment: pytest.MonkeyPatch) -> Path:
    """The folder in which this process finds the plugin."""
    install(tmp_path)
    environment.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("does", "last"),
    [
        ("finds", ("wrong", "the stars are gone", "Switch them on.")),
        ("raises", ("wrong", "It failed: ValueError.", "A fault of the plugin's.")),
        (
            "hangs",
            (
                "wrong",
                "It did not come to an end within 0 s.",
                "Can this machine reach what the plugin asks?",
            ),
        ),
    ],
)
async def test_what_a_plugin_finds_is_told_and_its_failure_is_a_line(
    does: str, last: tuple[str, str, str], installed: Path, environment: pytest.MonkeyPatch
) -> None:
    if does == "hangs":
        environment.setattr(doctor, "SECONDS_FOR_A_PLUGIN", 0.3)
    environment.setenv("CALLBOARD_CONFIG", str(config_of(installed, does)))
    lines = await told()
    found = [(word, what.removeprefix("examined (points): "), mend) for word, what, mend in lines]
    begin = found.index(("right", "the sun shines", ""))
    assert found[begin + 1 : begin + 3] == [("warning", "the moon wanes", "Wait for it."), last]
    assert lines[begin][1] == "examined (points): the sun shines"
    assert lines[begin + 3][1].startswith("http://127.0.0.1:1/healthz")  # and on it goes
    assert "the-secret" not in str(lines)


async def test_a_plugin_that_cannot_be_entered_says_why(
    installed: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("CALLBOARD_CONFIG", str(config_of(installed, "stays outside")))
    assert "examined (points): the moon is unavailable, try again." in only(await told(), "wrong")


async def test_a_plugin_that_needs_mongodb_is_left_out_where_there_is_none(
    servers: Servers, tmp_path: Path
) -> None:
    install(tmp_path)
    given = {
        "CALLBOARD_CONFIG": str(config_of(tmp_path, "asks MongoDB")),
        "CALLBOARD_MONGO_URL": "mongodb://127.0.0.1:1",
        "PYTHONPATH": str(tmp_path),
    }
    _, lines = await command(**variables(servers) | given)
    assert "examined (points): the sun shines" in only(lines, "right")
    assert "examined (points): Not looked at, for MongoDB does not answer." in only(lines, "warning")


@pytest.mark.parametrize(
    ("changes", "what", "mend"),
    [
        (
            {'points = "per_minute"': 'points = "by_luck"'},
            'No plugin "by_luck" is installed for callboard.points; there are: per_minute, tiered.',
            "Install its package beside Callboard, or name another in callboard.toml.",
        ),
        (
            {"training_points = 0": "training_points = -1"},
            "callboard.toml: plugins.options.per_minute.training_points: ",
            "docs/plugins.md says what this plugin wants to know.",
        ),
        (
            {
                'ranking = "local"': 'ranking = "roblox"',
                PER_MINUTE: f"[plugins.options.roblox]\ngroup = 7\n\n{PER_MINUTE}",
            },
            'CALLBOARD_ROBLOX_KEY: plugin "roblox" needs it, found none.',
            "Set the variable CALLBOARD_ROBLOX_KEY, or write the secret into ",
        ),
    ],
)
async def test_a_plugin_that_does_not_load_is_wrong_and_the_others_are_told(
    changes: Mapping[str, str], what: str, mend: str, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("CALLBOARD_CONFIG", str(changed_config(tmp_path, changes)))
    lines = await told()
    (found,) = [line for line in lines if line[1].startswith(what)]
    assert found[0] == "wrong"
    assert found[2].startswith(mend)
    (loaded,) = [line for line in only(lines, "right") if line.startswith("These plugins load: ")]
    assert "local (identity), " in loaded
    assert "api_key (policies)" in loaded


async def test_it_changes_nothing(servers: Servers, tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    user = unique_id()
    newcomer = f'people = [\n  {{ id = {user}, username = "New_{user}", rank = "Guest" }},'
    config = changed_config(tmp_path, {"people = [": newcomer})
    environment.setenv("CALLBOARD_CONFIG", str(config))
    assert only(await told(), "right")
    async with open_database(settings(Settings, servers), "accounts") as database:
        assert await database["people"].find_one({"_id": user}) is None


# -------------------------------------------------------------------------------------------- Roblox


@pytest.fixture
async def group(tmp_path: Path, environment: pytest.MonkeyPatch) -> AsyncIterator[Roblox]:
    """A group at Roblox, and a configuration that names it and its key."""
    async with roblox() as standin:
        options = f'group = {standin.group}\nopen_cloud_url = "{standin.url}"\nusers_url = "{standin.url}"'
        changes = {
            'identity = ["local"]': 'identity = ["roblox"]',
            'ranking = "local"': 'ranking = "roblox"',
            PER_MINUTE: f"[plugins.options.roblox]\n{options}\n\n{PER_MINUTE}",
        }
        environment.setenv("CALLBOARD_CONFIG", str(changed_config(tmp_path, changes)))
        environment.setenv("CALLBOARD_ROBLOX_KEY", KEY)
        yield standin


async def about_roblox() -> Lines:
    """The lines of both plugins."""
    return [line for line in await told() if line[1].startswith("roblox (")]


async def test_a_group_in_order_has_a_line_for_each_rank(group: Roblox) -> None:
    lines = await told()
    right = only(lines, "right")
    assert [line for line in only(lines, "wrong") if "roblox" in line] == []
    assert "roblox (ranking): The key is valid." in right
    assert f"roblox (ranking): Group {group.group} is found." in right
    for name, role in group.ladder.items():
        assert any(f'rank "{name}" ({role.rank})' in line and str(role.id) in line for line in right)
    assert "Shifts of places that callboard.toml does not list are accepted." in only(lines, "warning")


@pytest.mark.usefixtures("group")
async def test_a_key_that_roblox_does_not_know_is_wrong_and_never_shown(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("CALLBOARD_ROBLOX_KEY", "another-key")
    lines = await about_roblox()
    assert any("does not know the key" in what for what in only(lines, "wrong"))
    assert all(mend for word, _, mend in lines if word == "wrong")
    assert "another-key" not in str(lines)


async def test_a_scope_that_is_missing_is_named(group: Roblox) -> None:
    group.keys[KEY].operations = {"read"}
    (line,) = [line for line in await about_roblox() if line[0] == "wrong"]
    assert line[1] == f"roblox (ranking): The key lacks the scope group:write for group {group.group}."
    assert "group:write" in line[2]


async def test_a_role_that_is_missing_is_named_with_the_ids_of_those_that_there_are(group: Roblox) -> None:
    del group.roles[group.ladder["Manager"].id]
    (line,) = [line for line in await about_roblox() if line[0] == "wrong"]
    assert line[1] == 'roblox (ranking): The rank "Manager" (40) has no role.'
    assert f'"Executive" is {group.ladder["Executive"].id} (rank 50)' in line[2]


@pytest.mark.parametrize(
    ("identity", "is_warned"),
    [('["bloxlink"]', True), ('["bloxlink", "rover"]', True), ('["rover", "local"]', False)],
)
async def test_where_no_plugin_knows_usernames_that_is_a_warning(
    identity: str, is_warned: bool, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    changes = {'identity = ["local"]': f"identity = {identity}"}
    environment.setenv("CALLBOARD_CONFIG", str(changed_config(tmp_path, changes)))
    warnings = only(await told(), "warning")
    assert any(line.startswith("No identity plugin knows usernames") for line in warnings) is is_warned


# --------------------------------------------------------------------------------------- as a command


async def test_where_nothing_was_started_the_configuration_alone_is_looked_at(tmp_path: Path) -> None:
    config = {"CALLBOARD_CONFIG": str(ROOT / "callboard.toml")}
    answer = await run(CALLBOARD, "doctor", "--data-dir", str(tmp_path / "none"), **config)
    assert (answer.status, answer.error) == (0, "")
    first, second, _, last = answer.out.splitlines()
    assert first == f"right    {ROOT / 'callboard.toml'} is valid."
    assert second.startswith(
        "warning  MongoDB, NATS, and whatever needs them, were not looked at: No Callboard"
    )
    assert last.startswith("right    These plugins load: ")
    assert not (tmp_path / "none").exists()


async def test_a_mistake_in_the_configuration_is_a_line_and_the_status_is_1(
    servers: Servers, tmp_path: Path
) -> None:
    config = changed_config(tmp_path, {'cast = "Cast Member"': 'cast = "Nobody"'})
    status, lines = await command(**variables(servers) | {"CALLBOARD_CONFIG": str(config)})
    assert status == 1
    assert lines[0] == (
        "wrong",
        f'{config}: ranks.cast: expected a rank of ranks.ladder, found "Nobody".',
        "Mend this line; docs/configuration.md has every key.",
    )
    assert any(what.startswith("NATS 2.") for what in only(lines, "right"))
