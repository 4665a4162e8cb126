"""What a request must pass, in the order of `plugins.policies` in `callboard.toml`.

The built-in policies are the modules of this package; others are found and constructed the same way
(see `common.plugins`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from common.errors import ServiceError
from common.plugins import PluginPoint
from gateway.models import Key
from gateway.routes import Route


@dataclass(slots=True)
class Call:
    """A request, as policies see it.

    `headers` are by lower-case name, repeated ones joined by ", ". `address` is the client's, found through
    trusted proxies only. The first policy sets `key`; a route that needs one is refused without it.
    """

    route: Route
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    address: str
    key: Key | None = None
    answer_headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """The query parameter's values, in their order; an empty one counts as absent."""
        return [value for key, value in self.query if key == name and value]


class Policy(Protocol):
    """May this request pass?

    A policy that holds something open is also an async context manager, entered when the gateway starts.
    """

    async def check(self, call: Call) -> None:
        """Return to let the request pass; raise the ServiceError that answers it otherwise."""


POLICIES = PluginPoint("policies", "may this request pass", Policy)


@runtime_checkable
class SeesRefusals(Protocol):
    """What a policy may offer besides."""

    async def refused(self, call: Call, error: ServiceError) -> None:
        """Hear that a policy refused a request with this error; may raise another in its place."""
