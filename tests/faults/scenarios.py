"""The runs that there are, and the negative controls, each with one promise of the product broken."""

from dataclasses import dataclass, replace

from tests.faults.checks import Wrong
from tests.faults.nemesis import Fault
from tests.faults.run import Scenario
from tests.faults.system import TO_NATS

_QUICK = "quick_ack_wait"

# Events are stored and delivered, but neither the acknowledgement of their publishing nor they themselves arrive.
_ANSWERS_LOST = Fault(1.0, "cut", TO_NATS, 4.0, "deaf")

# Every stop is longer than the consumers' ack wait, which a patch makes 3 s.
PROCESSES = Scenario(
    "processes", first=(_ANSWERS_LOST, Fault(2.0, "stop", "accounts-1", 5.0)), patches=(_QUICK,)
)
ONE_PROCESS = Scenario(
    "one process", form="one process", pause_seconds=(1.5, 3.5), first=(_ANSWERS_LOST,), patches=(_QUICK,)
)
# The product as it is: one process is stopped for longer than the 30 s of its ack wait.
UNPATCHED = Scenario(
    "unpatched", stop_seconds=(0.5, 5.0), first=(_ANSWERS_LOST, Fault(2.0, "stop", "accounts-1", 34.0))
)

SHORT = replace(PROCESSES, name="short", seconds=8)

_CONSUMER_STOPS = Fault(1.0, "stop", "accounts-1", 5.0)


@dataclass(frozen=True)
class Control:
    """A run with a promise broken, and what the checks must then find."""

    patch: str
    finds: Wrong
    may_find: frozenset[Wrong] = frozenset()
    fault: Fault = _CONSUMER_STOPS

    @property
    def scenario(self) -> Scenario:
        """The run: no fault but one that brings the weakness out."""
        return Scenario(self.patch, seconds=0, first=(self.fault,), patches=(_QUICK, self.patch))


CONTROLS = (
    Control("no_ledger_check", Wrong.TWICE),
    Control(
        "no_outbox",
        Wrong.LOST,
        may_find=frozenset({Wrong.UNANNOUNCED}),
        fault=Fault(1.0, "cut", TO_NATS, 3.0, "refuse"),
    ),
    Control("no_overlap_rule", Wrong.SECOND_TWICE),
    Control("no_versions", Wrong.CERTIFICATION),
)

RUNS = {
    scenario.name: scenario
    for scenario in (SHORT, PROCESSES, ONE_PROCESS, UNPATCHED, *(control.scenario for control in CONTROLS))
}


def scenario_of(seed: int) -> Scenario:
    """The run that this seed is used for: of five, one in one process, and one with the product unpatched."""
    return {0: UNPATCHED, 3: ONE_PROCESS}.get(seed % 5, PROCESSES)
