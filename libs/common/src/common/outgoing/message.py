"""A request to one of our own services, and its reply."""

from collections.abc import Sequence
from typing import NamedTuple

Header = tuple[bytes, bytes]


class Outgoing(NamedTuple):
    """A request to a service; `repeatable` says that sending it twice does no harm."""

    method: str
    path: str
    query: bytes = b""
    headers: Sequence[Header] = ()
    body: bytes = b""
    seconds: float = 10.0
    repeatable: bool = False


class Answer(NamedTuple):
    """The whole reply; the names of its headers are in lower case."""

    status: int
    headers: list[Header]
    body: bytes
