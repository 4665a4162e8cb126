"""What is installed is pinned, and comes from wherever the installing machine is told to look."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT

LOCK = (ROOT / "requirements.lock").read_text("utf-8")
RUNTIME_LOCK = (ROOT / "requirements-runtime.lock").read_text("utf-8")
BUILD_LOCK = (ROOT / "requirements-build.lock").read_text("utf-8")
LOCKS = {"all": LOCK, "runtime": RUNTIME_LOCK, "build": BUILD_LOCK}


def entries(lock: str) -> list[str]:
    """The packages of a lock, each with its version and hashes."""
    return re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", lock, flags=re.MULTILINE).strip())


def versions(lock: str) -> dict[str, str]:
    """The version of each package."""
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)", lock, re.MULTILINE))


def asked_for(path: Path, group: str | None = None) -> set[str]:
    """The packages that a pyproject.toml asks for, or one of its groups does; not those of the workspace."""
    project = tomllib.loads(path.read_text("utf-8"))
    asked = (
        project.get("dependency-groups", {}).get(group, [])
        if group
        else project["project"].get("dependencies", [])
    )
    names = {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", one)[0]).lower() for one in asked}
    return {name for name in names if not name.startswith("callboard")}


PACKAGES = sorted({*ROOT.glob("*/*/pyproject.toml"), ROOT / "gateway/pyproject.toml"})


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_to_one_version_with_hashes(lock: str) -> None:
    for entry in entries(LOCKS[lock]):
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+( ; [^\\]+)? \\\n", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    assert "://" not in LOCKS[lock]
    assert not re.search(
        r"^\s*--?(i|index-url|extra-index-url|find-links|trusted-host)\b", LOCKS[lock], re.MULTILINE
    )


def test_there_is_no_lock_besides() -> None:
    assert not (ROOT / "uv.lock").exists()


@pytest.mark.parametrize("lock", ["runtime", "build"])
def test_an_image_has_the_versions_that_are_tested(lock: str) -> None:
    tested = set(entries(LOCK))
    assert len(tested) > 50
    assert set(entries(LOCKS[lock])) <= tested, "run `make lock`"


def test_an_image_has_what_its_packages_ask_for_and_nothing_of_development() -> None:
    for path in PACKAGES:
        assert asked_for(path) <= versions(RUNTIME_LOCK).keys(), f"{path.relative_to(ROOT)}: run `make lock`"
    only_tested = asked_for(ROOT / "pyproject.toml", "dev") - {
        name for path in PACKAGES for name in asked_for(path)
    }
    assert not only_tested & versions(RUNTIME_LOCK).keys()


def test_the_lock_holds_every_package_that_the_workspace_asks_for() -> None:
    assert asked_for(ROOT / "pyproject.toml", "dev") <= versions(LOCK).keys(), "run `make lock`"
    for path in PACKAGES:
        assert asked_for(path) <= versions(LOCK).keys(), f"{path.relative_to(ROOT)}: run `make lock`"
