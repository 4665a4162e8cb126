"""What is wrong between a service and NATS: one log line when it begins and once a minute, a metric, one when it ends."""

import logging
from typing import Literal, get_args

from common import metrics
from common.logs import LogThrottle

logger = logging.getLogger(__name__)

What = Literal["connection", "stream", "consumer", "paused", "unhandled"]


class Troubles:
    """The troubles of one service, by what they are about; none at the start."""

    def __init__(self, service: str) -> None:
        self._throttle = LogThrottle()
        self._logged: set[What] = set()
        self._gauges = {what: metrics.BUS_TROUBLE.labels(service, what) for what in get_args(What)}

    def note(self, what: What, sentence: str | None) -> None:
        """Say what is wrong, why and what to do; None once it is right."""
        self._gauges[what].set(sentence is not None)
        if sentence is None:
            if what in self._logged:
                self._logged.remove(what)
                logger.warning("NATS is right again: %s", _RIGHT[what])
        elif self._throttle.allows(sentence):
            self._logged.add(what)
            logger.warning(sentence)


_RIGHT: dict[What, str] = {
    "connection": "this service is connected.",
    "stream": "the stream is there, as the settings want it.",
    "consumer": "the consumer is there, and asks for what this service handles.",
    "paused": "the consumer is not paused any more.",
    "unhandled": "the consumer asks for nothing that this service does not handle.",
}
