"""What is installed is pinned, and comes from wherever the installing machine is told to look."""

import re
import tomllib

from tests.architecture.repository import ROOT

LOCK = (ROOT / "requirements.lock").read_text("utf-8")


def test_the_lock_pins_every_package_to_one_version_with_hashes() -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", LOCK, flags=re.MULTILINE).strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+( ; [^\\]+)? \\\n", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_the_lock_names_no_host() -> None:
    assert "://" not in LOCK
    assert not re.search(
        r"^\s*--?(i|index-url|extra-index-url|find-links|trusted-host)\b", LOCK, re.MULTILINE
    )


def test_there_is_one_lock() -> None:
    assert not (ROOT / "uv.lock").exists()


def test_the_lock_holds_every_package_that_the_workspace_asks_for() -> None:
    pinned = set(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==", LOCK, re.MULTILINE))
    for path in [
        ROOT / "pyproject.toml",
        *ROOT.glob("libs/*/pyproject.toml"),
        *ROOT.glob("*/*/pyproject.toml"),
    ]:
        project = tomllib.loads(path.read_text("utf-8"))
        asked = project["project"].get("dependencies", []) + project.get("dependency-groups", {}).get(
            "dev", []
        )
        names = {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", one)[0]).lower() for one in asked}
        missing = {name for name in names - pinned if not name.startswith("callboard")}
        assert not missing, f"{path.relative_to(ROOT)}: run `make lock`"
