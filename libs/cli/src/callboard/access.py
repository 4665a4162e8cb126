"""How the commands other than `up` find a system, and open its databases."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from callboard.errors import CommandError
from callboard.services import DATABASES
from callboard.system import SECRETS
from common.mongo import Database, connect, shared_client
from common.settings import Settings, read_settings

_DEFAULT_DATA_DIR = Path(".callboard")


def data_dir_of(given: Path | None) -> Path | None:
    """The data folder to look into: the given one, else the default one; None where the environment says all."""
    if given is None and ("CALLBOARD_MONGO_URL" in os.environ or "CALLBOARD_SECRETS_DIR" in os.environ):
        return None
    return given or _DEFAULT_DATA_DIR


def find_settings(given: Path | None) -> Settings:
    """The settings of the system in `data_dir_of(given)`, or those of the environment, as a service reads them.

    Raises CommandError, and ConfigurationError for settings that are wrong.
    """
    data_dir = data_dir_of(given)
    if data_dir is None:
        return read_settings(Settings)
    try:
        values = {
            name: (data_dir / "secrets" / f"callboard_{name}").read_text("utf-8")
            for name in (*SECRETS, "config")
        }
    except FileNotFoundError:
        raise CommandError(
            f"No Callboard was started in {data_dir} so far: start one with `callboard up`, or name its folder "
            "with --data-dir."
        ) from None
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return read_settings(Settings, **values)


@asynccontextmanager
async def open_database(settings: Settings, name: str) -> AsyncIterator[Database]:
    """The database of one service, for as long as the context is open."""
    client, database = connect(settings, name)
    async with client:
        yield database


@asynccontextmanager
async def open_databases(settings: Settings) -> AsyncIterator[dict[str, Database]]:
    """The databases of all services and the gateway by name, all of one client."""
    async with shared_client(settings, "callboard"), AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(open_database(settings, name)) for name in DATABASES}
