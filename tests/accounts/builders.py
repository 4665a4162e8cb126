"""What the tests of accounts are made of."""

from datetime import UTC, datetime
from typing import Any

from common.events import CertificationGranted, CertificationRevoked, ShiftLogged, new_id


def shift_logged(user: int, points: int, **given: Any) -> ShiftLogged:
    """The event of a shift that pays this many points."""
    values: dict[str, Any] = {
        "id": new_id(),
        "occurred_at": datetime.now(UTC),
        "user": user,
        "place": 1001,
        "server": "server-1",
        "training": False,
        "started_at": 0,
        "ended_at": points * 60,
        "duration": points * 60,
        "credited_seconds": points * 60,
        "points": points,
        "logged_by": "game",
    }
    return ShiftLogged(**values | given)


def granted(user: int, code: str, version: int) -> CertificationGranted:
    """The event of a grant."""
    return CertificationGranted(user=user, username="A", certification=code, version=version, moderator="M")


def revoked(user: int, code: str, version: int) -> CertificationRevoked:
    """The event of a revocation."""
    return CertificationRevoked(user=user, username="A", certification=code, version=version, moderator="M")
