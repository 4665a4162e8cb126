"""Parameters by the rules of the public contract."""

from urllib.parse import parse_qsl

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidQuery
from common.query import Flag, Id, Query, Seconds, Text, parse_pairs, query_parameters, read_query


class Sample(Query):
    """One field of each kind."""

    id: Id
    training: Flag = False
    duration: Seconds = 0
    name: Text | None = None


def read(query: str) -> Sample:
    """The query string as `Sample`."""
    return read_query(Sample, Request({"type": "http", "query_string": query.encode(), "headers": []}))


@pytest.mark.parametrize("text", ["1", "0042", "9223372036854775807"])
def test_an_id_is_decimal_text(text: str) -> None:
    assert read(f"id={text}").id == int(text)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "%2B1",
        "1.0",
        "1e3",
        "0x1",
        "1_0",
        "%201",
        "9223372036854775808",
        "9" * 5000,
        "%D9%A1",
        "nan",
        "[]",
    ],
)
def test_what_is_no_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidQuery, match=r"^invalid query: id must be a whole number"):
        read(f"id={text}")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("False", False), ("0", False)]
)
def test_a_flag_comes_in_any_case(text: str, *, value: bool) -> None:
    assert read(f"id=1&training={text}").training is value


def test_what_is_no_flag_is_refused_by_name() -> None:
    with pytest.raises(InvalidQuery, match="training must be true, false, 1 or 0"):
        read("id=1&training=yes")


def test_seconds_lose_their_fraction() -> None:
    assert read("id=1&duration=59.999").duration == 59


@pytest.mark.parametrize("text", ["-1", "inf", "nan", "1e5", ".5", "5."])
def test_what_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery, match="duration must be a decimal number"):
        read(f"id=1&duration={text}")


def test_an_empty_parameter_counts_as_absent() -> None:
    assert read("id=1&training=&name=") == Sample(id=1)
    with pytest.raises(InvalidQuery, match=r"^invalid query: id is missing$"):
        read("id=")


def test_a_repeated_parameter_is_refused_and_an_unknown_one_ignored() -> None:
    with pytest.raises(InvalidQuery, match=r"^invalid query: id is given more than once$"):
        read("id=1&id=1")
    assert read("id=1&id[]=2&id[$ne]=3&other=4&other=5") == Sample(id=1)


def test_text_is_one_short_printable_line() -> None:
    assert read("id=1&name=%20Ada%20").name == "Ada"
    for text in ("a" * 101, "a%0Ab", "a%00b", "%20"):
        with pytest.raises(InvalidQuery, match="name must be printable text"):
            read(f"id=1&name={text}")


def test_parameters_are_documented_from_the_same_model() -> None:
    documented = {entry["name"]: entry for entry in query_parameters(Sample)["parameters"]}
    assert [name for name, entry in documented.items() if entry["required"]] == ["id"]
    assert documented["id"]["schema"]["maximum"] == 2**63 - 1
    assert documented["name"]["schema"] == {"type": "string", "minLength": 1, "maxLength": 100}
    assert [name for name, entry in documented.items() if not entry["allowEmptyValue"]] == ["id"]


@given(st.text(alphabet="ab1=&%+;26~ÿ", max_size=20))
def test_a_query_is_parsed_as_the_standard_library_does(query: str) -> None:
    assert parse_pairs(query) == parse_qsl(query, keep_blank_values=True)
