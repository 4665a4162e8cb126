"""Limits, one frozen model for each room."""

import pytest
from pydantic import ValidationError

from applications.settings import ApplicationsSettings
from certifications.settings import CertificationsSettings
from common.errors import ConfigurationError
from common.limits import Limits, Wait, limits_of
from common.settings import ProcessSettings, Settings, read_settings
from notifications.settings import NotificationsSettings
from shifts.settings import ShiftsSettings
from tests.support import unconnected

ALL = (
    ProcessSettings,
    Settings,
    CertificationsSettings,
    ApplicationsSettings,
    ShiftsSettings,
    NotificationsSettings,
)


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


@pytest.mark.parametrize(
    ("model", "room", "given", "sentence"),
    [
        (
            OfItsProcess,
            "storage",
            {"answer_seconds": 12},
            "an operation of MongoDB may take 12 s, which must be below the gateway's time limit of 10 s.",
        ),
        (
            OfItsProcess,
            "storage",
            {"ping_seconds": 5},
            "a ping of MongoDB may take 5 s, which must be below an operation of MongoDB of 2 s.",
        ),
        (
            OfItsProcess,
            "storage",
            {"same_act_seconds": 61},
            "the wait for another request with the same Idempotency-Key may take 61 s, which must be below the time "
            "after which an act counts as broken off of 60 s.",
        ),
        (
            OfItsProcess,
            "hop",
            {"rank_read_seconds": 8},
            "reading and setting a rank may take 11 s, which must be below the gateway's time limit of 10 s.",
        ),
        (
            OfItsProcess,
            "chassis",
            {"drain_seconds": 2},
            "an idle connection to a service may take 2 s, which must be below the time that a service which stops "
            "still answers of 2 s.",
        ),
        (
            Settings,
            "consumer",
            {"locked_seconds": 2},
            "waiting for a locked document may take 2 s, which must be below an operation of MongoDB of 2 s.",
        ),
        (
            CertificationsSettings,
            "certifications",
            {"fresh_seconds": 2},
            "reading a rank in accounts may take 2 s, which must be below asking accounts for a rank of 2 s.",
        ),
        (
            CertificationsSettings,
            "certifications",
            {"fresh_seconds": 10},
            "asking accounts for a rank may take 10 s, which must be below the gateway's time limit of 10 s.",
        ),
        (
            ApplicationsSettings,
            "applications",
            {"lease_seconds": 6},
            "an attempt at an approval may take 6.5 s, which must be below the lease of an approval of 6 s.",
        ),
        (
            ApplicationsSettings,
            "applications",
            {"approval_seconds": 7},
            "the lease of an approval may take 7 s, which must be below the time limit of an approval of 7 s.",
        ),
        (
            ApplicationsSettings,
            "applications",
            {"approval_seconds": 10},
            "an approval may take 10 s, which must be below the gateway's time limit of 10 s.",
        ),
        (
            ApplicationsSettings,
            "applications",
            {"member_seconds": 1.5},
            "reading a rank in accounts may take 2 s, which must be below asking accounts for a rank of 1.5 s.",
        ),
        (
            ApplicationsSettings,
            "applications",
            {"rank_seconds": 3},
            "setting a rank in accounts may take 3 s, which must be below asking accounts to set a rank of 3 s.",
        ),
        (
            ApplicationsSettings,
            "pastebin",
            {"paste_seconds": 4},
            "an upload to Pastebin may take 10 s, which must be below the gateway's time limit of 10 s.",
        ),
        (
            ShiftsSettings,
            "shifts",
            {"locked_seconds": 0.5},
            "waiting three times for a locked person may take 1.5 s, which must be below half of the time limit of a "
            "shift of 1.15 s.",
        ),
        (
            ShiftsSettings,
            "shifts",
            {"certifications_seconds": 2},
            "asking certifications may take 2 s, which must be below half of the time limit of a shift of 1.15 s.",
        ),
        (
            ShiftsSettings,
            "shifts",
            {"log_seconds": 10},
            "logging a shift may take 10 s, which must be below the gateway's time limit of 10 s.",
        ),
        (
            NotificationsSettings,
            "discord",
            {"message_seconds": 60},
            "telling Discord may take 62.5 s, which must be below the lease of what is told of 60 s.",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_limits_that_do_not_fit_together_stop_the_start_with_a_sentence(
    model: type[ProcessSettings], room: str, given: dict[str, float], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        unconnected(model, public_url="http://park.example", patience=1, **{room: given})
    assert str(refused.value).endswith(sentence)


@pytest.mark.parametrize("patience", [0.1, 1, 2, 100])
@pytest.mark.parametrize("model", ALL)
def test_the_limits_fit_together_with_every_patience(model: type[ProcessSettings], patience: float) -> None:
    unconnected(model, public_url="http://park.example", patience=patience)


def test_a_room_can_be_given_as_json_and_what_it_leaves_out_keeps_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CALLBOARD_ROOM", '{"at_once": 2}')
    room = settings(patience=2).room

    assert (room.at_once, room.answer_seconds) == (2, 4.0)
