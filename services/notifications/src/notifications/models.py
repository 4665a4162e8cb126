"""What people are told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

_SHIFT = ("username", "id", "place", "place_id", "duration", "credited", "points")

KINDS: Mapping[str, tuple[str, ...]] = {
    "application_submitted": ("username", "id", "url", "copy_url"),
    "application_approved": ("username", "id", "rank", "moderator"),
    "certification_granted": ("username", "id", "certification", "code", "moderator"),
    "certification_revoked": ("username", "id", "certification", "code", "moderator"),
    "shift_long": _SHIFT,
    "shift_overlap": _SHIFT,
}
"""Every kind of news, and its fields."""


@dataclass(frozen=True)
class News:
    """Something that people may want to know: `fields` are those of its kind, as plain text from anywhere.

    `id` is unique, and the same each time the event behind it arrives. It happened `at` this time. `username`
    is the id where nobody knows a name; `moderator` is `discord:<id>` or `roblox:<id>`, and in older news any name.
    """

    id: str
    kind: str
    at: datetime
    fields: Mapping[str, str]
