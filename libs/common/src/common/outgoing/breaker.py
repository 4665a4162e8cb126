"""Keeping requests away from what does not answer: they fail at once, and it can recover."""

import time

FAILURES_IN_A_ROW = 5
SECONDS_BETWEEN_TRIES = 0.5


class Breaker:
    """Opens after several failures in a row; then lets one request through now and then, until one is answered."""

    def __init__(self) -> None:
        self.failures = 0
        """How many requests in a row were not answered."""
        self._next_try = 0.0

    def lets_pass(self) -> bool:
        """Whether the next request may be sent."""
        if self.failures < FAILURES_IN_A_ROW:
            return True
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + SECONDS_BETWEEN_TRIES
        return True

    def note_answer(self) -> None:
        """It answers."""
        self.failures = 0

    def note_failure(self) -> None:
        """It did not answer."""
        self.failures += 1
        if self.failures == FAILURES_IN_A_ROW:
            self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
