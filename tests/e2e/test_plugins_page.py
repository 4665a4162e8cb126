"""A reader of docs/plugins.md gets a points policy of their own."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from callboard.access import open_database
from common.app import create_app
from shifts.main import SERVICE
from shifts.settings import ShiftsSettings
from tests.cli.machine import CALLBOARD, run
from tests.gateway.builders import changed_config
from tests.shifts.builders import log, shift
from tests.support import ROOT, Servers, running, settings

OFFLINE = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")


def blocks(language: str) -> list[str]:
    """The code blocks of the section, in their order."""
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    section = page.split("\n## A points policy of your own\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


async def test_the_policy_of_the_page_is_installed_listed_and_pays(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,), (project, choice), (install,), (console,) = map(blocks, ("python", "toml", "sh", "console"))
    assert len([line for line in code.splitlines() if line]) <= 10
    source, installed = tmp_path / "park-points", tmp_path / "installed"
    source.mkdir()
    (source / "park_points.py").write_text(code, "utf-8")
    (source / "pyproject.toml").write_text(project, "utf-8")
    command = install.replace(".venv/bin/python", sys.executable).replace("./park-points", str(source))
    answer = await run(*command.split(), *OFFLINE, "--target", str(installed))
    assert answer.status == 0, answer.error

    name = tomllib.loads(choice)["points"]
    config = changed_config(tmp_path, {'points = "per_minute"': choice.strip()})
    listing = await run(CALLBOARD, "plugins", "--config", str(config), PYTHONPATH=str(installed))
    typed, *printed = console.splitlines()
    assert typed == "$ callboard plugins"
    assert f"  {name} in use  park-points" in printed
    assert set(printed) <= set(listing.out.splitlines()), listing.out

    monkeypatch.syspath_prepend(installed)
    own = settings(ShiftsSettings, servers, config=config)
    worked = shift(duration=30 * 60 + 14 * 60)
    async with running(create_app(SERVICE, own), own) as client:
        assert (await log(client, worked)).status_code == 200
    sys.modules.pop("park_points")
    async with open_database(own, "shifts") as database:
        stored = await database["shifts"].find_one({"user": worked["id"]})
    assert stored is not None
    assert stored["points"] == 2 * 20
