"""Files of people as spreadsheets write them, and what is said of those that are wrong."""

from pathlib import Path

import pytest

from accounts.models import PersonChange
from callboard.errors import CommandError
from callboard.people import read_people
from common.group import load_group
from tests.support import ROOT

GROUP = load_group(ROOT / "callboard.toml")
ANNA = PersonChange(id=5, username="Anna", rank="Cast Member", discord=500)
BERT = PersonChange(id=6, username="Bert; the second", rank="40", discord=None)


def read(folder: Path, text: str, encoding: str = "utf-8") -> list[PersonChange]:
    """The people of a file with this text."""
    path = folder / "people.csv"
    path.write_bytes(text.encode(encoding))
    return list(read_people(path, GROUP).values())


def said(folder: Path, text: str, encoding: str = "utf-8") -> list[str]:
    """What is said of a file that is wrong, line by line."""
    with pytest.raises(CommandError) as raised:
        read(folder, text, encoding)
    return str(raised.value).replace(f"{folder / 'people.csv'}: ", "").splitlines()


@pytest.mark.parametrize(
    "text",
    [
        "id,username,rank,discord\n5,Anna,Cast Member,500\n6,Bert; the second,40,\n",
        'id;username;rank;discord\r\n5;Anna;Cast Member;500\r\n6;"Bert; the second";40;\r\n',
        "id\tusername\trank\tdiscord\n5\tAnna\tCast Member\t500\n6\tBert; the second\t40\t\n",
        '"Discord"," RANK ","Username","Id",,\n"500","Cast Member","Anna","5",,\n,40,Bert; the second,6,,\n,,,,,\n\n',
        "\n\nid,joined,username,rank,discord\n5,2020,Anna,Cast Member,500\n6,2021,Bert; the second,40\n",
    ],
    ids=["commas", "semicolons", "tabs", "any order and case", "other columns, and cells left off"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str, encoding: str) -> None:
    assert read(tmp_path, text, encoding) == [ANNA, BERT]


def test_an_absent_column_says_nothing_and_an_empty_cell_says_none(tmp_path: Path) -> None:
    (without,) = read(tmp_path, "id,rank\n5,Guest\n")
    assert without.model_fields_set == {"id", "rank"}
    (empty,) = read(tmp_path, "id,discord\n5,\n")
    assert (empty.model_fields_set, empty.discord) == ({"id", "discord"}, None)


def test_every_line_with_a_mistake_is_named(tmp_path: Path) -> None:
    text = (
        "id,username,rank,discord\n"
        "5,Anna,Guest,500\n"
        "6,,Guest,\n"
        "7,Carl,,\n"
        "8,Dora,Ghost,3.0E+17\n"
        "5,Emil,Guest,\n"
        "9,ANNA,Guest,500\n"
        '10,"Two\nlines",Guest,\n'
        "eleven,Gert,Guest,\n"
    )
    lines = said(tmp_path, text)
    assert [line.split(": ")[:2] for line in lines] == [
        ["line 3", "username"],
        ["line 4", "rank"],
        ["line 5", "rank"],
        ["line 5", "discord"],
        ["line 6", "id"],
        ["line 7", "username"],
        ["line 7", "discord"],
        ["line 8", "username"],
        ["line 10", "id"],
    ]
    assert lines[3] == (
        "line 5: discord: 3.0E+17 was rounded by a spreadsheet: format the column as text, and enter the number "
        "again."
    )
    assert lines[4] == "line 6: id: line 2 has the same."


def test_of_many_mistakes_the_first_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    lines = said(tmp_path, "id,username,rank\n" + "0,A,Guest\n" * 33)
    assert len(lines) == 21
    assert lines[-1] == "and 13 more."


@pytest.mark.parametrize(
    ("text", "encoding", "sentence"),
    [
        ("", "utf-8", "line 1: must name the columns, such as id,username,rank,discord."),
        ("5,Anna,Guest\n", "utf-8", "line 1: must name the columns: id, and those of"),
        ("id\n5\n", "utf-8", "line 1: must name the columns: id, and those of"),
        ("id,rank,Rank\n5,Guest,Guest\n", "utf-8", "line 1: the column rank is there more than once."),
        ('id,username\n5,"Anna\n', "utf-8", "line 2: not valid CSV: unexpected end of data."),
    ],
)
def test_a_file_that_is_no_such_table_is_one_sentence(
    tmp_path: Path, text: str, encoding: str, sentence: str
) -> None:
    (line,) = said(tmp_path, text, encoding)
    assert line.startswith(sentence)
