"""What must be done before the services start: `python -m callboard.prepare DATA_DIR`."""

import asyncio
import logging
import sys
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pymongo
from pymongo.errors import PyMongoError

from callboard.consumers import set_filters
from callboard.databases import migrate_all
from callboard.errors import CommandError, in_short
from callboard.files import write_private
from callboard.replica_set import prepare_mongod
from callboard.servers import is_ours
from common.group import load_group
from common.logs import configure_logging
from common.mongo import connect
from common.settings import ProcessSettings, Settings, read_settings
from common.text_files import read_text
from gateway.keys import create_key, list_keys, rotate_key
from gateway.models import KeyScope

logger = logging.getLogger(__name__)

FIRST_KEYS: tuple[KeyScope, ...] = ("roblox", "discord", "operator")
KEYS_FILE = "keys.env"
_UNFINISHED = "keys.env.unfinished"
_MAKER = "system"


async def prepare(settings: Settings, data_dir: Path) -> None:
    """Make MongoDB ready, migrate every database and, at the first start, make one key for each scope.

    What consumers ask NATS for is brought up to date too, where NATS answers.

    Safe to repeat. Raises CommandError and ConfigurationError.
    """
    load_group(settings.config)
    url = settings.mongo_url.get_secret_value()
    if is_ours(data_dir, url):
        await prepare_mongod(url)
    else:
        await _check(settings)
    await migrate_all(settings)
    if left_alone := await set_filters(settings):
        logger.info(left_alone)
    await _make_first_keys(settings, data_dir)


async def _check(settings: ProcessSettings) -> None:
    client, database = connect(settings, "gateway")
    async with client:
        try:
            with pymongo.timeout(10):
                hello = await database.command("hello")
        except PyMongoError as error:
            raise CommandError(f"MongoDB cannot be used: {in_short(error)}.") from error
    if "setName" not in hello:
        raise CommandError("MongoDB cannot be used: it is no member of a replica set.")


async def _make_first_keys(settings: ProcessSettings, data_dir: Path) -> None:
    """Write keys.env once; a start that died while doing so is made good by the next."""
    file, unfinished = data_dir / KEYS_FILE, data_dir / _UNFINISHED
    client, database = connect(settings, "gateway")
    async with client:
        present = {key.name for key in await list_keys(database) if key.current}
        if not unfinished.exists() and (file.exists() or present):
            return
        write_private(unfinished, "")
        lines = []
        for name in FIRST_KEYS:
            if name in present:
                key = await rotate_key(database, name, timedelta(0), by=_MAKER)
            else:
                key = await create_key(database, name=name, scope=name, created_by=_MAKER)
            lines.append(f"{name.upper()}_KEY={key}\n")
        write_private(file, "".join(lines))
        unfinished.unlink()


async def set_aside_other_keys(settings: Settings, data_dir: Path) -> None:
    """Rename keys.env if it has keys that the database does not know or has revoked, and forget a start that died with it."""
    (data_dir / _UNFINISHED).unlink(missing_ok=True)
    file = data_dir / KEYS_FILE
    if not file.exists():
        return
    client, database = connect(settings, "gateway")
    async with client:
        known = {key.hash for key in await list_keys(database) if key.revoked_at is None}
    given = [line.partition("=")[2] for line in read_text(file).splitlines()]
    if any(key and sha256(key.encode()).digest() not in known for key in given):
        file.replace(data_dir / f"{KEYS_FILE}.replaced")


if __name__ == "__main__":
    own_settings = read_settings(Settings)
    configure_logging("prepare", own_settings.log_level)
    asyncio.run(prepare(own_settings, Path(sys.argv[1])))
