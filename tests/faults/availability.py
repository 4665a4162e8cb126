"""How many requests failed, and how many of them beside a way that was whole. This is told, and never a finding."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.history import Kind, Operation, Told
from tests.faults.nemesis import Span
from tests.faults.system import TO_GATEWAY, TO_MONGOD, hop, replicas

PATIENT_SECONDS = 3.0
"""Whoever gave up sooner may just not have waited."""

_SHARED = ("gateway", "callboard", "mongod", TO_MONGOD, TO_GATEWAY)
"""What every request needs, and there is one of."""

_SERVICES: Mapping[Kind, Sequence[str]] = {
    "log": ("shifts",),
    "grant": ("certifications", "accounts"),
    "revoke": ("certifications", "accounts"),
    "approve": ("applications", "accounts"),
    "upload": ("applications",),
    "connect": ("accounts",),
    "profile": ("accounts",),
}


@dataclass
class Availability:
    """Requests of one kind: those answered 502, 503 or 504, those without an answer in their client's time, and those
    of both that failed though nothing that they needed was broken all the while (and the client was patient).
    """

    requests: int = 0
    answered_5xx: int = 0
    unanswered: int = 0
    beside_a_whole_way: int = 0


def availability(history: Iterable[Told], spans: Iterable[Span]) -> dict[Kind, Availability]:
    """How each kind of request fared."""
    broken: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        broken[span.target].append(span)

    def is_whole(target: str, since: float, until: float) -> bool:
        return all(span.ended_at < since or span.began_at > until for span in broken[target])

    def has_way(operation: Operation, since: float, until: float) -> bool:
        return all(is_whole(part, since, until) for part in _SHARED) and all(
            any(is_whole(one, since, until) and is_whole(hop(one), since, until) for one in replicas(service))
            for service in _services(operation)
        )

    seen: dict[Kind, Availability] = defaultdict(Availability)
    for told in history:
        for attempt in told.attempts:
            one = seen[told.operation.kind]
            one.requests += 1
            if attempt.outcome != "unknown" or attempt.ended_at is None:
                continue
            one.answered_5xx += attempt.status is not None
            one.unanswered += attempt.status is None
            is_patient = (
                attempt.status is not None or attempt.ended_at - attempt.invoked_at >= PATIENT_SECONDS
            )
            if is_patient and has_way(told.operation, attempt.invoked_at, attempt.ended_at):
                one.beside_a_whole_way += 1
    return dict(seen)


def _services(operation: Operation) -> list[str]:
    """Who is asked for this; /log asks certifications where the place needs one that shifts does not know of."""
    services = [*_SERVICES[operation.kind]]
    if operation.params.get("place") == 1002:
        services.append("certifications")
    return services
