"""What the operator's command does is recorded, where the changes of keys are: in `audit` of the gateway's database."""

import getpass
import os
from datetime import UTC, datetime
from typing import Any, Literal

from callboard.access import open_database
from common.mongo import Database, Session
from common.settings import Settings
from gateway.repository import Repository

Act = Literal["import", "restore", "repair", "drop"]


def operator() -> str:
    """Who runs this command, as records name them."""
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"operator:uid-{os.getuid()}"


async def record(
    gateway: Database,
    act: Act,
    text: str,
    *,
    session: Session | None = None,
    act_id: str | None = None,
    **more: Any,
) -> None:
    """Record an act of the operator, in the transaction of `session` if it is one.

    `text` says what was done with its numbers, and names no secret and of a person no more than the id.
    """
    await Repository(gateway).note(
        session, act=act, at=datetime.now(UTC), by=operator(), text=text, act_id=act_id, **more
    )


async def acts(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """The newest of what was recorded, newest first: `id`, `at`, `act`, `by`, `text`."""
    async with open_database(settings, "gateway") as database:
        found = await Repository(database).acts(limit)
    return [
        {
            "id": str(one["_id"]),
            "at": one["at"],
            "act": one.get("act") or one.get("action", ""),
            "by": one["by"],
            "text": one.get("text") or one.get("name", ""),
        }
        for one in found
    ]
