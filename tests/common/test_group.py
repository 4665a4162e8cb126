"""callboard.toml: what a mistake in it answers."""

from pathlib import Path

import pytest

from common.errors import ConfigurationError
from common.group import load_group
from tests.support import ROOT

SHIPPED = (ROOT / "callboard.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            'cast = "Cast Member"',
            'cast = "King"',
            'ranks.cast: expected a rank of ranks.ladder, found "King"',
        ),
        ('cast = "Cast Member"', "", "ranks.cast: expected this key, found none"),
        ("rankid = 30", "rankid = 3", "ranks: ladder: expected each rankid to be above the one before"),
        ("clearance = 3", "clearance = 4", "ranks.ladder.4.clearance: .* found 4"),
        ("clearance = 3", "clearance = 1", "expected no clearance to be below that of a lower rank"),
        ('unknown = "accept"', 'unknown = "maybe"', "places.unknown: .*'accept' or 'refuse'"),
        (
            'certifications = ["tot"]',
            'certifications = ["top"]',
            'places.known.1002.certifications: .* "top"',
        ),
        ("[places.known.1003]", "[places.known.here]", "places.known.here: .*integer"),
        (
            "longest_credited_hours = 12",
            "longest_credited_hours = 25",
            "points.longest_credited_hours: .* found 25",
        ),
        ("longest_credited_hours", "longest_hours", "points.longest_hours: expected no such key"),
        (
            'trainee_rank = "University Student"',
            'trainee_rank = "Manager"',
            "expected a rank below ranks.cast",
        ),
        ("tot = { name", "Tot! = { name", "not valid TOML"),
        ("tot = { name", "ToT = { name", "certifications.ToT"),
        ("[training]", "[trainings]", "trainings: expected no such key"),
    ],
)
def test_a_mistake_is_named_by_its_key_and_what_was_expected(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in SHIPPED
    file = tmp_path / "callboard.toml"
    file.write_text(SHIPPED.replace(before, after, 1), "utf-8")
    with pytest.raises(ConfigurationError, match=message):
        load_group(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"callboard.toml: cannot be read"):
        load_group(tmp_path / "callboard.toml")


def test_the_shipped_file_is_valid_and_ranks_are_found_by_what_they_reach() -> None:
    group = load_group(ROOT / "callboard.toml")
    assert [group.rank_at(rankid).name for rankid in (0, 9, 10, 25, 255)] == [
        "Guest",
        "Guest",
        "University Student",
        "Cast Member",
        "Executive",
    ]
    assert [group.clearance_at(rankid) for rankid in (0, 10, 20, 30, 40, 50)] == [0, 0, 1, 2, 3, 3]
    assert group.minimum_rank("tot") == group.trainee_rank
