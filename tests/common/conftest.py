"""What the tests of the chassis share."""

from collections.abc import Iterator

import pytest

from tests.support import patience


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """The product's own time limits are not reached by a machine that pauses."""
    with patience():
        yield
