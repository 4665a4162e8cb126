"""What the tests of the chassis share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """The product's own time limits are not reached by a machine that pauses."""
    with pytest.MonkeyPatch.context() as patch:
        for limit in (
            "common.mongo.TIMEOUT_SECONDS",
            "common.outbox.TIMEOUT_SECONDS",
        ):
            patch.setattr(limit, 30.0)
        yield
