"""Tests give limits, and change no constant by its name: one that is renamed would be changed for nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

_CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]*")

FORMAT = "callboard.backup_file.FORMAT"
"""No limit: a test makes a file of a later version."""

NOT_YET = {
    "tests/accounts": {
        "_ACTOR_SECONDS",
        "_AT_ONCE",
        "_BACKGROUND_SECONDS",
        "_CALLS_PER_MINUTE",
        "_FIRST_PAUSE_SECONDS",
        "_LONGEST_CALL_SECONDS",
        "_LONGEST_PAUSE_SECONDS",
        "_LOOK_SECONDS",
        "_READ_SECONDS",
        "_SECONDS",
        "_SET_SECONDS",
        "KNOWN_SECONDS",
        "MOST_REMEMBERED",
        "UNKNOWN_SECONDS",
    },
    "tests/cli": {
        "_AWAY_SECONDS",
        "_CLOCK_TOLERANCE_SECONDS",
        "_PATIENCE_SECONDS",
        "_PEOPLE_AT_ONCE",
        "_READ_AT_ONCE",
        "SECONDS_FOR_A_PLUGIN",
    },
    "tests/common": {"_PATIENCE_SECONDS", "_SECONDS_BETWEEN_CANCELLATIONS"},
    "tests/gateway": {
        "BODY_SECONDS",
        "_KEEP_SECONDS",
        "_READ_ALL_EVERY_SECONDS",
        "_READ_EVERY_SECONDS",
    },
}
"""Constants that are to become limits, by the folder of the tests that change them. This shrinks to nothing."""


def changed_constants(path: Path) -> Iterator[str]:
    """The constants that `setattr` changes in this file, as it names them."""
    for call in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr != "setattr":
            continue
        for text in (one.value for one in call.args[:2] if isinstance(one, ast.Constant)):
            if _CONSTANT.fullmatch(str(text).rpartition(".")[2]):
                yield str(text)


def test_no_test_changes_a_constant_by_its_name() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        folder = "/".join(path.relative_to(ROOT).parts[:2])
        names = {one.rpartition(".")[2] for one in changed_constants(path) if one != FORMAT}
        if names:
            found[folder] = found.get(folder, set()) | names
    known = {folder: names & NOT_YET.get(folder, set()) for folder, names in found.items()}
    assert found == known, "give limits through the settings or the constructor"
    stale = {folder: names - found.get(folder, set()) for folder, names in NOT_YET.items()}
    assert not any(stale.values()), f"no test changes these any more: {stale}"
