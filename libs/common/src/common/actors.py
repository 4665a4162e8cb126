"""Who did something, as records, events and answers name them."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from common.query import MAX_ID

_MODERATOR = re.compile(r"(?:(roblox):)?([0-9]{1,19})", re.ASCII)


def _moderator(value: object) -> str:
    found = _MODERATOR.fullmatch(str(value))
    if found is None or not 1 <= int(found[2]) <= MAX_ID:
        raise PydanticCustomError("moderator", "must be a Discord id, or roblox: and a Roblox id")
    return f"{found[1] or 'discord'}:{int(found[2])}"


Moderator = Annotated[
    str,
    BeforeValidator(_moderator),
    WithJsonSchema({"type": "string", "pattern": "^(roblox:)?[0-9]{1,19}$"}),
]
"""Who decided, as a caller names them: a Discord id, or `roblox:<id>`. Its value is `discord:<id>` or `roblox:<id>`."""


def _canonical(value: object) -> str:
    return _moderator(str(value).removeprefix("discord:"))


ModeratorText = Annotated[
    str,
    BeforeValidator(_canonical),
    WithJsonSchema({"type": "string", "pattern": "^(discord|roblox):[0-9]{1,19}$"}),
]
"""A `Moderator` as one service passes it on to another: the value of one."""


class Actor(BaseModel):
    """Who did something.

    `by` is `roblox:<id>` wherever the Roblox account is known when it is done, else `discord:<id>`; for acts without a
    moderator it is `key:<name>`, `operator:<login>` or `system`. `via` is the Discord account through which a Roblox
    account acted. Compare people by `by`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    by: str
    via: str | None = None
