"""A time that stands still until a test sets it, in place of the module `time`."""


class Clock:
    """What is to happen after a while happens when the test says so, however slow the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """As of `time`."""
        return self.now
