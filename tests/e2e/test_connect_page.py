"""docs/connect-your-group.md leads from nothing to a group whose game knows its players and logs their shifts.

Roblox is a stand-in, and so is its engine; the page's commands, configuration and Luau are taken from the page.
"""

import asyncio
import json
import re
import tomllib
import uuid
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from lupa.lua51 import LuaRuntime  # type: ignore[import-untyped] # what it answers is checked here
from typer.main import get_group

from callboard.main import app
from common.group import Group
from tests.cli.machine import CALLBOARD, Machine, machine, run
from tests.standins.roblox import KEY, Roblox, User, roblox
from tests.support import ROOT, wait_until

PAGE = (ROOT / "docs" / "connect-your-group.md").read_text("utf-8")
PLACE = 1818
ENGINE = Path(__file__).with_name("roblox_studio.lua").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of the page, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """All that the page says to type."""
    return [line for block in blocks("sh") for line in block.splitlines()]


def configuration(standin: Roblox, *, has_roles: bool) -> str:
    """What the page makes of `callboard.toml`, for the stand-in's group."""
    *tables, roles = blocks("toml")
    urls = f'open_cloud_url = "{standin.url}"\nusers_url = "{standin.url}"\n'
    text = "\n".join([*tables, roles] if has_roles else tables)
    text = text.replace("group = 1234567\n", f"group = {standin.group}\n{urls}")
    return text.replace("22000005", str(standin.ladder["Manager"].id))


# ---------------------------------------------------------------------------------- the configuration


def test_the_tables_of_the_page_are_a_valid_configuration() -> None:
    group = Group.model_validate(tomllib.loads("\n".join(blocks("toml"))))
    assert (group.plugins.ranking, group.plugins.identity, group.places.unknown) == (
        "roblox",
        ("roblox",),
        "refuse",
    )
    assert set(group.places.known) == {PLACE}


def test_every_command_of_the_page_exists() -> None:
    named = {command for line in commands() for command in re.findall(r"\bcallboard ([a-z-]+)", line)}
    assert named == {"doctor", "up", "sync", "keys"}
    assert named <= set(get_group(app).commands)


# ------------------------------------------------------------------------------------ a group that runs


@dataclass
class Connected:
    """A group at Roblox, the Callboard that knows it, the key of its game, and members nobody met yet."""

    roblox: Roblox
    callboard: Machine
    key: str
    cast: list[User]
    managers: list[User]


@pytest.fixture(scope="module")
async def group(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connected]:
    """What the page has led to before its step 6."""
    folder = tmp_path_factory.mktemp("group")
    config = folder / "callboard.toml"
    async with roblox() as standin, machine(folder) as here:
        standin.add_role("Also forty", 40)  # two roles share a number
        standin.add_member(user=1)  # whom `Machine.knows` asks for
        cast = [standin.add_member("Cast Member") for _ in range(10)]
        managers = [standin.add_member("Manager")]
        (give_key,) = [line for line in commands() if "callboard_roblox_key" in line]
        typed = give_key.replace(".callboard", here.data_dir.name)
        shell = await asyncio.create_subprocess_exec("bash", "-c", typed, cwd=folder, stdin=PIPE)
        await shell.communicate(f"{KEY}\n".encode())

        config.write_text(configuration(standin, has_roles=False), "utf-8")
        given = {"CALLBOARD_CONFIG": str(config)}
        before = await run(CALLBOARD, "doctor", "--data-dir", str(here.data_dir), **given)
        (console,) = blocks("console")
        typed, *printed = console.splitlines()
        assert typed == "$ callboard doctor"
        assert {alike(line) for line in printed} <= {alike(line) for line in before.out.splitlines()}
        assert before.status == 1

        config.write_text(configuration(standin, has_roles=True), "utf-8")
        await here.up("--config", str(config))
        after = await here.callboard("doctor")
        assert (after.status, after.error) == (0, ""), after.out
        (make_key,) = [line for line in commands() if "keys create" in line]
        made = await here.callboard(*make_key.split()[1:])
        await wait_until(lambda: here.knows(made.out.strip()))
        yield Connected(standin, here, made.out.strip(), cast, managers)


def operator(group: Connected) -> httpx.AsyncClient:
    """A client with the operator's key."""
    return httpx.AsyncClient(headers={"x-api-key": group.callboard.keys()["OPERATOR_KEY"]}, timeout=30)


def alike(line: str) -> str:
    """The line without what differs from group to group."""
    return re.sub(r"\d{3,}", "N", re.sub(r"/\S+/callboard.toml", "callboard.toml", line))


async def test_the_key_stands_in_a_private_file_and_in_no_command_line(group: Connected) -> None:
    file = group.callboard.data_dir / "secrets" / "callboard_roblox_key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    lines = [" ".join(one.cmdline()) for one in group.callboard.alive()]
    assert len(lines) >= 4
    assert not [line for line in lines if KEY in line]


async def test_the_ranks_of_all_members_are_read_and_the_game_key_can_be_rotated(group: Connected) -> None:
    member = group.cast.pop()
    synced = await group.callboard.callboard("sync")
    assert (synced.status, synced.error) == (0, "")
    async with operator(group) as client:
        profile = await client.get(f"{group.callboard.url}/profile", params={"id": member.id})
    assert profile.json()["rank"] == "Cast Member"
    (rotate,) = [line for line in commands() if "keys rotate" in line]
    made = await group.callboard.callboard(*rotate.split()[1:])
    assert made.status == 0
    await wait_until(lambda: group.callboard.knows(made.out.strip()))
    await wait_until(lambda: group.callboard.knows(group.key))


# ------------------------------------------------------------------------------------- the game's lines


@dataclass
class Studio:
    """A game server that runs the page's scripts, against the Callboard at `url`."""

    client: httpx.Client
    url: str
    key: str
    lost: deque[str] = field(default_factory=deque)
    """What happens to the next requests: "answer" (it is lost), "request" (it is), a status, or "" (nothing)."""
    sent: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Idempotency-Key of each request."""
    refusal: str = "a proxy's page"
    """The body of what is answered in place of Callboard."""

    def __post_init__(self) -> None:
        self.lua: Any = LuaRuntime(unpack_returned_tuples=True)
        secrets = self.lua.table_from({"callboard_key": self.key})
        self.lua.execute(ENGINE, self._ask, self._decode, lambda: str(uuid.uuid4()), PLACE, secrets)
        module, script = blocks("lua")
        assert "https://park.example" in module
        self.lua.globals().run_module("Callboard", module.replace("https://park.example", self.url))
        self.lua.globals().run_script(script)

    def __getattr__(self, name: str) -> Any:
        return self.lua.globals()[name]

    def _ask(self, method: str, url: str, headers: Any) -> tuple[int, Any, str]:
        given = {str(name): str(value) for name, value in headers.items()}
        self.sent.append((method, url.removeprefix(self.url), given.get("Idempotency-Key")))
        fault = self.lost.popleft() if self.lost else ""
        if fault == "request":
            raise TimeoutError("HttpError: Timedout")
        if fault.isdigit():
            return int(fault), self.lua.table_from({"retry-after": "3"}), self.refusal
        answer = self.client.request(method, url, headers=given)
        if fault == "answer":
            raise TimeoutError("HttpError: ConnectFail")
        return answer.status_code, self.lua.table_from(dict(answer.headers)), answer.text

    def logged(self) -> list[tuple[str, str, str | None]]:
        """Of each POST: the path without `now`, `now`, and the Idempotency-Key."""
        told = [(path.partition("&now="), key) for method, path, key in self.sent if method == "POST"]
        return [(path, now, key) for (path, _, now), key in told]

    def _decode(self, text: str) -> Any:
        return self.lua.table_from(json.loads(text))


@pytest.fixture
def studio(group: Connected) -> Iterator[Studio]:
    """A game server of the group's place."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield Studio(client, group.callboard.url, group.key)


async def points(group: Connected, user: int) -> int:
    """What the person has earned."""
    async with operator(group) as client:
        found = await client.get(f"{group.callboard.url}/profile", params={"id": user})
    points: int = found.json().get("points", 0)
    return points


async def test_a_shift_whose_answer_is_lost_is_sent_again_and_paid_once(
    group: Connected, studio: Studio
) -> None:
    member = group.cast.pop()

    def play() -> Any:
        player = studio.join(member.id)
        studio.advance(30 * 60)
        studio.lost.extend(["answer", "503", "request", ""])
        studio.quit(player)
        studio.advance(60)
        return player

    player = await asyncio.to_thread(play)
    assert dict(player.attributes) == {"Clearance": 1, "Certifications": ""}
    logged = studio.logged()
    assert len(logged) == 4
    assert len({(path, key) for path, _, key in logged}) == 1
    assert f"id={member.id}&place={PLACE}&duration=1800&training=false&server=studio-" in logged[0][0]
    moments = [int(now) for _, now, _ in logged]
    assert (
        moments == sorted(moments) and moments[0] < moments[-1]
    )  # each says what the time is when it is sent

    async def is_paid() -> bool:
        return await points(group, member.id) == 30

    await wait_until(is_paid)
    assert len(studio.warnings) == 3


async def test_a_guest_may_enter_and_logs_nothing(group: Connected, studio: Studio) -> None:
    visitor = group.roblox.add_user()

    def play() -> Any:
        player = studio.join(visitor.id)
        studio.advance(600)
        studio.quit(player)
        studio.advance(60)
        return player

    player = await asyncio.to_thread(play)
    assert (player.attributes["Clearance"], player.kicked) == (0, None)
    assert [one[0] for one in studio.sent] == ["GET"]


async def test_while_callboard_is_away_a_player_waits_for_their_rank(
    group: Connected, studio: Studio
) -> None:
    member = group.managers.pop()

    def play() -> Any:
        studio.lost.extend(["request", "502", "request"])
        player = studio.join(member.id)
        studio.advance(20)
        assert player.attributes["Clearance"] is None
        studio.advance(60)
        return player

    assert (await asyncio.to_thread(play)).attributes["Clearance"] == 3


async def test_a_server_that_closes_sends_the_shifts_of_those_who_are_still_there(
    group: Connected, studio: Studio
) -> None:
    members = [group.cast.pop() for _ in range(3)]

    def play() -> None:
        for member in members:
            studio.join(member.id)
        studio.advance(600)
        studio.lost.extend(["503", "answer"])
        studio.close()

    await asyncio.to_thread(play)

    async def are_paid() -> bool:
        return [await points(group, member.id) for member in members] == [10, 10, 10]

    await wait_until(are_paid)


async def test_a_server_that_closes_while_callboard_is_away_ends_in_time(
    group: Connected, studio: Studio
) -> None:
    member = group.cast.pop()

    def play() -> None:
        studio.join(member.id)
        studio.advance(600)
        studio.lost.extend(["request"] * 500)
        studio.close()

    await asyncio.to_thread(play)
    assert "Shifts that Callboard did not get: 1" in list(studio.warnings.values())


async def test_a_shift_that_is_refused_for_good_does_not_hold_up_the_next(
    group: Connected, studio: Studio
) -> None:
    member = group.cast.pop()

    def play() -> None:
        callboard = studio.require("Callboard")
        callboard.log(member.id, 25 * 3600)
        studio.advance(60)
        callboard.log(member.id, 60)
        studio.advance(60)

    await asyncio.to_thread(play)
    assert [one[0] for one in studio.sent] == ["POST", "POST"]
    (warning,) = studio.warnings.values()
    assert warning.startswith("Callboard will never take this shift: /log?id=")


async def test_a_key_that_opens_nothing_costs_no_shift(group: Connected, studio: Studio) -> None:
    wrong = Studio(studio.client, studio.url, "cb_roblox_wrong")
    member = group.cast.pop()

    def play() -> None:
        wrong.require("Callboard").log(member.id, 60)
        wrong.advance(600)

    await asyncio.to_thread(play)
    assert len(wrong.sent) > 5
    assert len({(path, key) for path, _, key in wrong.logged()}) == 1


async def test_a_shift_that_is_refused_for_its_time_is_kept(group: Connected, studio: Studio) -> None:
    member = group.cast.pop()

    def play() -> None:
        studio.lost.append("400")
        studio.refusal = '{"status":"error","message":"invalid query: ended_at must be at most 7 days old"}'
        studio.require("Callboard").log(member.id, 60)
        studio.advance(60)

    await asyncio.to_thread(play)
    assert len(studio.logged()) == 2

    async def is_paid() -> bool:
        return await points(group, member.id) == 1

    await wait_until(is_paid)
