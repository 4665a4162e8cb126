"""What somebody new to Callboard edits first in `callboard.toml`: it is so after the next start, or one sentence."""

import codecs
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.machine import Machine, machine
from tests.support import ROOT, wait_until

SHIPPED = (ROOT / "callboard.toml").read_text("utf-8")
MANAGER = '{ id = 4, username = "ParkManager", rank = "Manager", discord = 400000000000000004 }'


@pytest.fixture(scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Machine]:
    """A machine that was started once with the shipped file."""
    async with machine(tmp_path_factory.mktemp("edits")) as one:
        await one.up()
        assert await one.stop() == 0
        yield one


def edited(folder: Path, changes: dict[str, str], *, by_windows: bool = False) -> Path:
    """The shipped file with these changes; `by_windows`, as Notepad saves it."""
    text = SHIPPED
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    file = folder / "callboard.toml"
    content = text.replace("\n", "\r\n").encode() if by_windows else text.encode()
    file.write_bytes(codecs.BOM_UTF8 + content if by_windows else content)
    return file


async def people(here: Machine) -> dict[int, tuple[str | None, str, str | None]]:
    """The username, rank and Discord id of everybody whom the local plugins know."""
    found = json.loads((await here.callboard("people", "list", "--json")).out)
    return {one["id"]: (one["username"], one["rank"], one["discord"]) for one in found}


async def test_new_people_places_and_ranks_are_so_after_the_next_start(here: Machine, tmp_path: Path) -> None:
    own = 555_000_111
    changes = {
        MANAGER: f'{{ id = {own}, username = "ParkManager", rank = "Boss", discord = 400000000000000004 }}',
        'username = "ParkStudent", rank = "University Student"': 'username = "ParkCast", rank = "Rookie"',
        'username = "ParkCast", rank = "Cast Member"': 'username = "ParkStudent", rank = "Cast Member"',
        '{ name = "Manager", rankid = 40, clearance = 3 }': '{ name = "Boss", rankid = 45, clearance = 3 }',
        '{ name = "University Student", rankid = 10 }': '{ name = "Rookie", rankid = 5 }',
        'trainee_rank = "University Student"': 'trainee_rank = "Rookie"',
        "[places.known.1001]": "[places.known.123456789]",
    }
    await here.up("--config", str(edited(tmp_path, changes, by_windows=True)))
    found = await people(here)
    assert found[own] == ("ParkManager", "Boss", "400000000000000004")
    assert found[2] == ("ParkCast", "Rookie", None)
    assert found[3] == ("ParkStudent", "Cast Member", "300000000000000003")
    assert found[4] == (None, "Senior Cast Member", None)
    shown = await here.callboard("people", "show", "--username", "parkmanager", "--json")
    assert json.loads(shown.out)["account"] is not None
    assert await here.stop() == 0

    # And back again.
    await here.up()
    found = await people(here)
    assert found[4] == ("ParkManager", "Manager", "400000000000000004")
    assert (found[2][0], found[3][0], found[own][0]) == ("ParkStudent", "ParkCast", None)
    assert await here.stop() == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {
                '{ name = "Manager", rankid = 40, clearance = 3 }': '{ name = "Boss", rankid = 40, clearance = 3 }'
            },
            'callboard.toml: plugins.options.local.people.3.rank: There is no rank "Manager"; there are: Guest, '
            "University Student, Cast Member, Senior Cast Member, Boss, Executive.",
        ),
        (
            {'username = "ParkStudent"': 'username = "ParkCast"'},
            'callboard.toml: plugins.options.local.people: 2 people have the username "parkcast"; give each '
            "their own.",
        ),
        (
            {'{ name = "Cast Member", rankid = 20, clearance = 1 },': ""},
            'ranks.cast: expected a rank of ranks.ladder, found "Cast Member".',
        ),
    ],
)
async def test_an_edit_that_does_not_fit_is_one_sentence_that_names_the_key(
    here: Machine, tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    await here.begin("--config", str(edited(tmp_path, changes)))
    await wait_until(lambda: here.has_ended, 60)
    assert here.process is not None
    assert await here.process.wait() == 1
    assert here.output.splitlines()[-1].endswith(sentence)
    assert "status 3" not in here.output
    assert "Traceback" not in here.output
