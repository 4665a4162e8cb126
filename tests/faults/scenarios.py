"""The runs that there are, and the negative controls, each with one promise of the product broken."""

from dataclasses import dataclass, replace
from typing import Any

from tests.faults.checks import Wrong
from tests.faults.nemesis import Fault
from tests.faults.run import Scenario
from tests.faults.system import TO_NATS, hop

_QUICK = "quick_ack_wait"

# Events are stored and delivered, but neither the acknowledgement of their publishing nor they themselves arrive.
_ANSWERS_LOST = Fault(1.0, "cut", TO_NATS, 4.0, "deaf")

# The gateway is not heard by one replica of shifts; then it does not hear of shifts that the other has recorded.
_NOT_HEARD = (
    Fault(0.3, "cut", hop("shifts-2"), 2.0, "silent"),
    Fault(3.0, "cut", hop("shifts-1"), 4.0, "deaf"),
)

# Every stop is longer than the consumers' ack wait, which a patch makes 3 s.
PROCESSES = Scenario(
    "processes", first=(_ANSWERS_LOST, Fault(2.0, "stop", "accounts-1", 5.0), *_NOT_HEARD), patches=(_QUICK,)
)
ONE_PROCESS = Scenario(
    "one process",
    form="one process",
    seconds=30,
    pause_seconds=(1.5, 3.5),
    first=(_ANSWERS_LOST, Fault(15.0, "kill", "callboard", 0)),
    patches=(_QUICK,),
)
# The product as it is: one process is stopped for longer than the 30 s of its ack wait.
UNPATCHED = Scenario(
    "unpatched",
    stop_seconds=(0.5, 5.0),
    first=(_ANSWERS_LOST, Fault(2.0, "stop", "accounts-1", 34.0), *_NOT_HEARD),
)

SHORT = replace(PROCESSES, name="short", seconds=8)


@dataclass(frozen=True)
class Control:
    """A run with a promise broken by a patch, and what the checks must then find."""

    scenario: Scenario
    finds: Wrong
    may_find: frozenset[Wrong] = frozenset()


def _without(patch: str, *faults: Fault, **given: Any) -> Scenario:
    """A run with no fault but those that bring the weakness out."""
    return Scenario(patch, seconds=0, first=faults, patches=(_QUICK, patch), **given)


CONTROLS = (
    Control(_without("no_ledger_check", Fault(1.0, "stop", "accounts-1", 6.0)), Wrong.TWICE),
    Control(
        _without("no_outbox", Fault(1.0, "cut", TO_NATS, 4.0, "refuse")),
        Wrong.LOST,
        may_find=frozenset({Wrong.UNANNOUNCED}),
    ),
    Control(_without("no_overlap_rule", Fault(1.0, "stop", "applications-1", 3.0)), Wrong.SECOND_TWICE),
    # Many changes in a short time, so that some come to one consumer while the next come to the other.
    Control(
        _without("no_versions", Fault(1.0, "stop", "shifts-1", 6.0), game_servers=2, trainers=6),
        Wrong.CERTIFICATION,
    ),
)

RUNS = {
    scenario.name: scenario
    for scenario in (SHORT, PROCESSES, ONE_PROCESS, UNPATCHED, *(control.scenario for control in CONTROLS))
}


def scenario_of(seed: int) -> Scenario:
    """The run that this seed is used for: of five, one in one process, and one with the product unpatched."""
    return {0: UNPATCHED, 3: ONE_PROCESS}.get(seed % 5, PROCESSES)
