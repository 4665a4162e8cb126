"""The key names a principal: it must be valid, its scope must be one of the route's, its networks match."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from ipaddress import ip_address

from common.background import background
from common.plugins import PluginContext
from gateway.errors import AccessDenied, MissingKey, WrongKey
from gateway.keys import KeyTable
from gateway.models import Key
from gateway.policies import Call


class ApiKey:
    """Sets the request's key. Routes that anyone may call pass without one."""

    def __init__(self, context: PluginContext) -> None:
        self._keys = KeyTable(context.database)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        await self._keys.refresh()
        await self._stack.enter_async_context(background(self._keys.run))

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def check(self, call: Call) -> None:
        """Raises MissingKey, WrongKey, AccessDenied, and Unavailable when keys cannot be read."""
        if call.route.anyone:
            return
        given = set(_given_keys(call))
        if not given:
            raise MissingKey
        if len(given) > 1:
            raise WrongKey
        call.key = key = await self._keys.find(given.pop())
        if key.scope not in call.route.scopes or not _comes_from_its_networks(call, key):
            raise AccessDenied


def _given_keys(call: Call) -> Iterator[str]:
    yield from call.values("key")
    if "x-api-key" in call.headers:
        yield from _parts(call.headers["x-api-key"])
    if "authorization" in call.headers:
        for part in _parts(call.headers["authorization"]):
            scheme, _, key = part.partition(" ")
            if scheme.lower() == "bearer" and (key := key.strip()):
                yield key


def _parts(header: str) -> Iterator[str]:
    return filter(None, map(str.strip, header.split(",")))


def _comes_from_its_networks(call: Call, key: Key) -> bool:
    if not key.networks:
        return True
    try:
        address = ip_address(call.address)
    except ValueError:  # no address: a socket in the file system
        return False
    return any(address in network for network in key.networks)
