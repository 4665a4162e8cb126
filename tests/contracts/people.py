"""The ranks of the shipped configuration, and somebody who holds one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class Rank:
    """A rank of the shipped configuration."""

    name: str
    rankid: int
    clearance: int
    is_cast: bool


GUEST = Rank("Guest", 0, 0, is_cast=False)
TRAINEE = Rank("University Student", 10, 0, is_cast=False)
CAST = Rank("Cast Member", 20, 1, is_cast=True)
SENIOR = Rank("Senior Cast Member", 30, 2, is_cast=True)
MANAGER = Rank("Manager", 40, 3, is_cast=True)
EXECUTIVE = Rank("Executive", 50, 3, is_cast=True)
RANKS = (GUEST, TRAINEE, CAST, SENIOR, MANAGER, EXECUTIVE)


@dataclass(frozen=True)
class Person:
    """Somebody whom no other test knows."""

    id: int
    username: str
    discord: int
    rank: Rank

    def profile(
        self,
        *,
        account: str | None = None,
        points: int = 0,
        rank: Rank | None = None,
        certifications: Sequence[str] = (),
    ) -> str:
        """The whole body of /profile, with the given changes."""
        now = rank or self.rank
        known = f'"_id":"{account}",' if account else ""
        return (
            f'{{"status":"success","id":{self.id},{known}"username":"{self.username}","points":{points},'
            f'"rank":"{now.name}","rankid":{now.rankid},"cast":{json.dumps(now.is_cast)},'
            f'"certifications":{json.dumps(list(certifications), separators=(",", ":"))}}}'
        )


LARGEST = Person(MAX_ID, "Largest", MAX_ID, TRAINEE)
"""Who has the largest ids that there can be."""
