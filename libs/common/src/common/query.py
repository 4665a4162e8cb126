"""Parameters and bodies, read by the rules of the public contract and documented from the same models."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from urllib.parse import parse_qsl

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from common.errors import InvalidQuery
from common.text import clean

if TYPE_CHECKING:  # the operator's command knows the models, but needs no server
    from fastapi import Request

MAX_ID = 2**63 - 1
MAX_TEXT = 100
MAX_MOMENT_DIGITS = 18
"""Of a time, so that a few days more still fit into the 64 bits that MongoDB has."""
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def _id(value: object) -> int:
    text = str(value)
    if not _DIGITS.fullmatch(text) or len(text) > 19 or not 1 <= int(text) <= MAX_ID:
        raise PydanticCustomError("id", "must be a whole number from 1 to 9223372036854775807")
    return int(text)


def _flag(value: object) -> bool:
    try:
        return _FLAGS[str(value).lower()]
    except KeyError:
        raise PydanticCustomError("flag", "must be true, false, 1 or 0") from None


def _seconds(value: object) -> int:
    text = str(value)
    if not _DECIMAL.fullmatch(text) or len(text) > 32:
        raise PydanticCustomError("seconds", "must be a decimal number of seconds")
    return int(text.partition(".")[0])


def _moment(value: object) -> int:
    seconds = _seconds(value)
    if seconds >= 10**MAX_MOMENT_DIGITS:
        raise PydanticCustomError("moment", "must be a time in Unix seconds")
    return seconds


def _text(value: object) -> str:
    text = clean(str(value))
    if text is None or not 1 <= len(text) <= MAX_TEXT:
        raise PydanticCustomError("text", "must be printable text of 1 to 100 characters")
    return text


Id = Annotated[
    int, BeforeValidator(_id), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_ID})
]
"""A Roblox or Discord id: whole, positive, 64-bit."""

Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})]
"""true, false, 1 or 0, in any case."""

Seconds = Annotated[int, BeforeValidator(_seconds), WithJsonSchema({"type": "number", "minimum": 0})]
"""Seconds as decimal text; a fraction, usual in Luau, is dropped."""

Moment = Annotated[int, BeforeValidator(_moment), WithJsonSchema({"type": "number", "minimum": 0})]
"""A time in Unix seconds by somebody's clock, however wrong; a fraction is dropped."""

Text = Annotated[
    str, BeforeValidator(_text), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_TEXT})
]
"""A name, a code, a server's id: one short line, without what cannot be seen in it."""


class Query(BaseModel):
    """The parameters of one route. An empty one counts as absent; unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PersonQuery(Query):
    """Parameters that name one person: exactly one of these."""

    id: Id | None = None
    username: Text | None = None
    discord: Id | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.id, self.username, self.discord].count(None) != 2:
            raise PydanticCustomError("one_of", "expected exactly one of id, username and discord")
        return self


Q = TypeVar("Q", bound=BaseModel)


def read_query(model: type[Q], request: "Request") -> Q:
    """The request's query parameters as `model`. Raises InvalidQuery for the first that is wrong."""
    names = _names(model)
    values: dict[str, str] = {}
    # Starlette would build a QueryParams around the same pairs, at twice the price.
    for name, value in parse_pairs(request.scope["query_string"].decode("latin-1")):
        if name in names:
            if name in values:
                raise InvalidQuery(f"{name} is given more than once")
            values[name] = value
    return validate(model, {name: value for name, value in values.items() if value != ""})


@lru_cache
def _names(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(model.model_fields)


def parse_pairs(query: str) -> Sequence[tuple[str, str]]:
    """The names and values of a query string, in their order."""
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True)
    # Where nothing is escaped, as in nearly every request, this does the same in a fifth of the time.
    return [(name, value) for name, _, value in (part.partition("=") for part in query.split("&") if part)]


def validate(model: type[Q], values: Mapping[str, Any]) -> Q:
    """`values` as `model`. Raises InvalidQuery for the first that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InvalidQuery(f"{name} is missing") from None
        raise InvalidQuery(f"{name} {first['msg']}".strip()) from None


def query_parameters(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of `model` as query parameters, for a route's `openapi_extra`."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return {
        "parameters": [
            _parameter(name, field, is_required=name in required)
            for name, field in schema["properties"].items()
        ]
    }


def _parameter(name: str, field: Mapping[str, Any], *, is_required: bool) -> dict[str, Any]:
    # Optional is `X | None` in the model, but there is no way to write null in a query.
    (kind,) = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    return {
        "name": name,
        "in": "query",
        "required": is_required,
        "allowEmptyValue": not is_required,
        "description": field.get("description", ""),
        "schema": {
            key: value for key, value in kind.items() if key not in ("title", "description", "default")
        },
    }
