"""`callboard people import`: for whom, and what it says when nobody would see the people."""

from pathlib import Path

import pytest

from accounts.people import Imported
from callboard.access import open_database
from callboard.databases import migrate_database
from callboard.errors import CommandError
from callboard.people import import_file
from common.settings import Settings
from tests.gateway.builders import changed_config
from tests.support import Servers, settings, unique_id


def on_roblox(folder: Path, servers: Servers, **plugins: str) -> Settings:
    """Settings with the shipped configuration, but for these plugins."""
    shipped = {"identity": 'identity = ["local"]', "ranking": 'ranking = "local"'}
    changes = {shipped[name]: f"{name} = {value}" for name, value in plugins.items()}
    return settings(Settings, servers, config=changed_config(folder, changes))


def file_of(folder: Path, user: int) -> Path:
    """A file of one person."""
    path = folder / "people.csv"
    path.write_text(f"id,username,rank\n{user},Person_{user},Guest\n", "utf-8")
    return path


async def test_people_whom_no_plugin_would_show_are_not_imported(servers: Servers, tmp_path: Path) -> None:
    user = unique_id()
    own = on_roblox(tmp_path, servers, identity='["roblox"]', ranking='"roblox"')
    await migrate_database(own, "accounts")
    with pytest.raises(CommandError, match="nobody would see these people"):
        await import_file(own, file_of(tmp_path, user))
    async with open_database(own, "accounts") as database:
        assert await database["people"].find_one({"_id": user}) is None


async def test_people_are_imported_for_one_local_plugin_of_several(servers: Servers, tmp_path: Path) -> None:
    user = unique_id()
    own = on_roblox(tmp_path, servers, identity='["roblox", "local"]', ranking='"roblox"')
    await migrate_database(own, "accounts")
    assert await import_file(own, file_of(tmp_path, user)) == Imported(added=1, changed=0, unchanged=0)
    async with open_database(own, "accounts") as database:
        assert await database["people"].find_one({"_id": user}) is not None
