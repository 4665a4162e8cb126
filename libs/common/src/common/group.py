"""`callboard.toml`: what differs from group to group, validated when a service starts."""

import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from common.errors import ConfigurationError
from common.text_files import read_text

Code = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$")]
PlaceId = Annotated[int, Field(ge=1, le=2**63 - 1)]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(given: object) -> timedelta:
    """The time that "90s", "15m", "24h" or "7d" means. Raises ValueError."""
    if isinstance(given, timedelta):  # a default
        return given
    found = re.fullmatch(r"(\d{1,6})([smhd])", str(given))
    if found is None:
        raise ValueError("expected a number of s, m, h or d, such as 90d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rank(_Table):
    """One rung of the ladder; without a clearance it has that of the rung below."""

    name: str = Field(min_length=1)
    rankid: int = Field(ge=0, le=2**63 - 1)
    clearance: int | None = Field(None, ge=0, le=3)


class Ranks(_Table):
    """The ladder, lowest first, its first cast rank, and how old what was read of a rank may be.

    The ages matter where ranks are kept elsewhere: a rank older than `refresh_after` is read again, and one
    older than `trust_for` opens nothing.
    """

    cast: str
    refresh_after: Duration = timedelta(minutes=15)
    trust_for: Duration = timedelta(days=7)
    ladder: tuple[Rank, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_ladder(self) -> "Ranks":
        rankids = [rank.rankid for rank in self.ladder]
        if rankids != sorted(set(rankids)):
            raise ValueError("ladder: expected each rankid to be above the one before")
        names = [rank.name.casefold() for rank in self.ladder]
        if len(set(names)) != len(names):
            raise ValueError("ladder: expected each name once")
        clearances = [rank.clearance for rank in self.ladder if rank.clearance is not None]
        if clearances != sorted(clearances):
            raise ValueError("ladder: expected no clearance to be below that of a lower rank")
        if self.refresh_after < timedelta(seconds=1) or self.trust_for < self.refresh_after:
            raise ValueError("trust_for: expected it to be at least refresh_after, and that at least 1s")
        return self


class Certification(_Table):
    """A training that can be granted; without a minimum rank, the trainee rank is asked for."""

    name: str = ""
    minimum_rank: str | None = None


class Place(_Table):
    """A place that asks for something; `certifications`: any one of them lets a shift be logged."""

    name: str = ""
    minimum_clearance: int = Field(0, ge=0, le=3)
    certifications: tuple[Code, ...] = ()


class Places(_Table):
    """The listed places, and what happens in others."""

    unknown: Literal["accept", "refuse"] = "accept"
    known: Mapping[PlaceId, Place] = Field(default_factory=dict)

    def get(self, place: int) -> Place | None:
        """The place; an open one where unlisted places are accepted; None where they are refused."""
        if place in self.known:
            return self.known[place]
        return Place() if self.unknown == "accept" else None


class Points(_Table):
    """How much of a shift can be credited."""

    longest_credited_hours: int = Field(12, ge=1, le=24)


class Training(_Table):
    """What holds on training servers."""

    grants_all: bool = True


class Applications(_Table):
    """What is asked, how long answers may be and are kept, and what an approved person becomes."""

    trainee_rank: str
    longest_answer: int = Field(4000, ge=1, le=40_000)
    keep_days: int = Field(30, ge=1, le=3650)
    questions: Mapping[Literal["q1", "q2", "q3", "q4"], str] = Field(default_factory=dict)


class Notifications(_Table):
    """What is worth a message."""

    long_shift_hours: int = Field(8, ge=1, le=24)


class Plugins(_Table):
    """The plugins in use, by name, and their options."""

    identity: tuple[str, ...] = Field(("local",), min_length=1)
    ranking: str = "local"
    documents: str = "store"
    points: str = "per_minute"
    notify: tuple[str, ...] = ()
    policies: tuple[str, ...] = Field(("api_key", "roblox_only", "rate_limit"), min_length=1)
    options: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)


class Group(_Table):
    """The whole file."""

    ranks: Ranks
    certifications: Mapping[Code, Certification] = Field(default_factory=dict)
    places: Places = Places()
    points: Points = Points()
    training: Training = Training()
    applications: Applications
    notifications: Notifications = Notifications()
    plugins: Plugins = Plugins()

    @model_validator(mode="after")
    def _names_are_known(self) -> "Group":
        named = {
            "ranks.cast": self.ranks.cast,
            "applications.trainee_rank": self.applications.trainee_rank,
            **{
                f"certifications.{code}.minimum_rank": certification.minimum_rank
                for code, certification in self.certifications.items()
                if certification.minimum_rank is not None
            },
        }
        for key, name in named.items():
            if name not in {rank.name for rank in self.ranks.ladder}:
                raise ValueError(f'{key}: expected a rank of ranks.ladder, found "{name}"')
        if self.trainee_rank.rankid >= self.cast_rank.rankid:
            raise ValueError("applications.trainee_rank: expected a rank below ranks.cast")
        for place, rules in self.places.known.items():
            for code in rules.certifications:
                if code not in self.certifications:
                    raise ValueError(
                        f'places.known.{place}.certifications: expected known codes, found "{code}"'
                    )
        return self

    def rank_named(self, name: str) -> Rank:
        """The rank of this name, in any case. Raises KeyError."""
        return self._ranks_by_name[name.casefold()]

    def rank_at(self, rankid: int) -> Rank:
        """The highest rank that `rankid` reaches; the lowest rank when it reaches none."""
        reached = [rank for rank in self.ranks.ladder if rank.rankid <= rankid]
        return reached[-1] if reached else self.ranks.ladder[0]

    def clearance_at(self, rankid: int) -> int:
        """The highest clearance that `rankid` reaches."""
        return max((rank.clearance or 0 for rank in self.ranks.ladder if rank.rankid <= rankid), default=0)

    @cached_property
    def trainee_rank(self) -> Rank:
        """What an approved applicant becomes."""
        return self.rank_named(self.applications.trainee_rank)

    @cached_property
    def cast_rank(self) -> Rank:
        """The first rank that counts as cast."""
        return self.rank_named(self.ranks.cast)

    def is_cast(self, rankid: int) -> bool:
        """Whether this rank counts as cast."""
        return rankid >= self.cast_rank.rankid

    def is_trainee_or_cast(self, rankid: int) -> bool:
        """Whether this rank is the trainee rank or above."""
        return rankid >= self.trainee_rank.rankid

    def minimum_rank(self, code: str) -> Rank:
        """The least rank that may hold this certification. Raises KeyError for an unknown code."""
        name = self.certifications[code].minimum_rank
        return self.rank_named(name) if name else self.trainee_rank

    @cached_property
    def _ranks_by_name(self) -> Mapping[str, Rank]:
        return {rank.name.casefold(): rank for rank in self.ranks.ladder}


def load_group(path: Path) -> Group:
    """The configuration in `path`. Raises ConfigurationError that names the key and what was expected."""
    try:
        values = tomllib.loads(read_text(path), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}.") from error
    try:
        return Group.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = "expected no such key"
        elif first["type"] == "missing":
            reason = "expected this key, found none"
        elif first["type"] != "value_error":
            reason = f"{reason}, found {first['input']!r}"
        raise ConfigurationError(f"{path}: {key}: {reason}." if key else f"{path}: {reason}.") from error
