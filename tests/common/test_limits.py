"""Limits, one frozen model for each room."""

import pytest
from pydantic import ValidationError

from common.limits import Limits, Wait, limits_of
from common.settings import ProcessSettings, read_settings


class OfARoom(Limits):
    """Of no real room."""

    answer_seconds: Wait = 2.0
    remembered_seconds: float = 60.0
    at_once: int = 8


class OfItsProcess(ProcessSettings):
    """Settings with the limits of a room."""

    room: OfARoom = limits_of(OfARoom)


def settings(**given: object) -> OfItsProcess:
    return read_settings(OfItsProcess, mongo_url="mongodb://localhost", internal_token="t" * 32, **given)


def test_a_slow_machine_waits_longer_and_remembers_no_longer() -> None:
    room = settings(patience=2).room

    assert (room.answer_seconds, room.remembered_seconds, room.at_once) == (4.0, 60.0, 8)


def test_a_test_passes_its_own() -> None:
    assert settings(patience=2, room=OfARoom(answer_seconds=0.1)).room.answer_seconds == 0.1


def test_a_limit_does_not_change_under_way() -> None:
    with pytest.raises(ValidationError):
        settings().room.at_once = 9  # type: ignore[misc] # which is what is tested


def test_a_limit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError):
        OfARoom(answer_second=1.0)  # type: ignore[call-arg] # which is what is tested
