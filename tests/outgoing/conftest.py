"""What the tests of the ways out share."""

from collections.abc import Iterator

import pytest

from tests.outgoing.wire import LONG


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """The client's own time limit is not reached by a machine that pauses; who tests it sets it anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.outgoing.client.CONNECT_SECONDS", 30.0)
        yield


@pytest.fixture
def idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client closes no connection for its age, so that it must close it for what the test says."""
    monkeypatch.setattr("common.outgoing.client.LONGEST_IDLE_SECONDS", LONG)
