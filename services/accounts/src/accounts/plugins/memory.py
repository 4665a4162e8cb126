"""What providers told, for a while: they are slow, and count how often they are asked."""

import time
from typing import Generic, NamedTuple, TypeVar

KNOWN_SECONDS = 15 * 60.0
UNKNOWN_SECONDS = 60.0
MOST_REMEMBERED = 20_000

Key = TypeVar("Key")
Value = TypeVar("Value")


class Told(NamedTuple, Generic[Value]):
    """What a provider told, until when that is believed; None: it knows nothing, which may change soon."""

    value: Value | None
    until: float


class Memory(Generic[Key, Value]):
    """What a provider told of the keys that were asked for last."""

    def __init__(self) -> None:
        self._told: dict[Key, Told[Value]] = {}

    def recall(self, key: Key) -> Told[Value] | None:
        """What was told of this key; None when it is to be asked for."""
        told = self._told.get(key)
        return told if told is not None and time.monotonic() < told.until else None

    def note(self, key: Key, value: Value | None) -> Value | None:
        """Remember what was told now; answers it."""
        self._told.pop(key, None)  # the oldest stand first
        seconds = UNKNOWN_SECONDS if value is None else KNOWN_SECONDS
        self._told[key] = Told(value, time.monotonic() + seconds)
        if len(self._told) > MOST_REMEMBERED:
            del self._told[next(iter(self._told))]
        return value
