"""The routes of `routes.toml`, and finding the one of a request."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from common.chassis.limits import HopLimits
from common.errors import ConfigurationError
from common.text_files import read_text
from gateway.errors import NotFound
from gateway.models import ROBLOX, KeyScope, Rate

ROUTES = Path(__file__).with_name("routes.toml")

_NEVER_FORWARDED = {"internal", "healthz", "readyz", "status", "docs", "metrics"}
_NO_PARAMETERS: Mapping[str, str] = {}
_PARAMETER = re.compile(r"\{([a-z_]+)\}")


class Route(BaseModel):
    """One public route; `routes.toml` says what each field means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str = Field(pattern=r"^(/([a-z0-9_-]+|\{[a-z_]+\}))+$")
    service: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    scopes: frozenset[KeyScope] = frozenset()
    anyone: bool = False
    roblox_only: bool = False
    idempotent: bool = False
    rate: Rate | None = None
    rate_by: str | None = Field(None, pattern=r"^[a-z_]+$")
    max_body_bytes: int = Field(16_384, ge=0)
    seconds: float = Field(HopLimits().request_seconds, gt=0)
    """How long the answer may take; on a slow machine, patience multiplies it."""

    @field_validator("path")
    @classmethod
    def _may_be_public(cls, path: str) -> str:
        if path.split("/")[1] in _NEVER_FORWARDED:
            raise ValueError(f"expected no path of the gateway's own or between services, found {path}")
        return path

    @model_validator(mode="after")
    def _says_who_may_call(self) -> "Route":
        if self.anyone == bool(self.scopes):
            raise ValueError("expected either scopes or anyone = true")
        if self.roblox_only and self.scopes != {ROBLOX}:
            raise ValueError('roblox_only: expected scopes = ["roblox"]')
        if self.rate_by and not self.rate:
            raise ValueError("rate_by: expected a rate too")
        return self


class Routes:
    """What is public. Paths without parameters are found by one look into a dict, and come first."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.all = tuple(routes)
        self._literal: dict[str, dict[str, Route]] = {}
        self._patterns: dict[re.Pattern[str], dict[str, Route]] = {}
        for route in routes:
            if "{" in route.path:
                pattern = re.compile(_PARAMETER.sub(r"(?P<\1>[A-Za-z0-9_-]+)", route.path))
                self._patterns.setdefault(pattern, {})[route.method] = route
            else:
                self._literal.setdefault(route.path, {})[route.method] = route

    def find(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
        """The routes at this path by method, and the parameters in it; NotFound unless it is written so."""
        if methods := self._literal.get(path):
            return methods, _NO_PARAMETERS
        for pattern, methods in self._patterns.items():
            if found := pattern.fullmatch(path):
                return methods, found.groupdict()
        raise NotFound


def load_routes(path: Path = ROUTES) -> Routes:
    """The routes in `path`. Raises ConfigurationError that names the route and what was expected."""
    try:
        tables = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}.") from error
    entries = tables.pop("route", None)
    if tables or not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{path}: expected [[route]] tables and nothing else.")
    routes: dict[tuple[str, str], Route] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            route = Route.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ": ".join(("", *map(str, first["loc"])))
            reason = first["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"{path}: route {number}{key}: {reason}.") from error
        if (route.method, route.path) in routes:
            raise ConfigurationError(f"{path}: route {number}: {route.method} {route.path} is there already.")
        routes[route.method, route.path] = route
    return Routes(tuple(routes.values()))
