"""Routes that only Roblox servers may call, each from its own place."""

from pydantic import BaseModel

from common.errors import InvalidQuery
from common.plugins import PluginContext
from common.query import Id, validate
from gateway.errors import AccessDenied
from gateway.policies import Call


class _Place(BaseModel):
    place: Id


class RobloxOnly:
    """The header Roblox-Id must equal the parameter `place`, and be one of the key's places if it lists any.

    Anyone outside Roblox can send the header too: what proves the caller is the key.
    """

    def __init__(self, _: PluginContext) -> None:
        pass

    async def check(self, call: Call) -> None:
        """Raises AccessDenied, and InvalidQuery for a `place` that cannot be read."""
        if not call.route.roblox_only:
            return
        sender = call.headers.get("roblox-id", "")
        if call.key is None or not (sender.isascii() and sender.isdecimal() and len(sender) <= 19):
            raise AccessDenied
        given = [(name, value) for name, value in call.query if name == "place"]
        if len(given) > 1:
            raise InvalidQuery("place is given more than once")
        place = validate(_Place, {name: value for name, value in given if value}).place
        if place != int(sender) or (call.key.places and place not in call.key.places):
            raise AccessDenied
