"""A run that broke too little says so, and requests are told by whether anything that they needed was broken."""

from collections import Counter

from tests.faults.availability import Availability, availability
from tests.faults.history import Attempt, Operation, Told
from tests.faults.nemesis import Span
from tests.faults.run import Result, repeated_inside
from tests.faults.scenarios import ONE_PROCESS, PROCESSES
from tests.faults.system import REPLICAS, hop
from tests.faults.wire import Passing


def wires(*, lost: bool) -> dict[str, Counter[Passing]]:
    """Wires to all replicas, all of them used."""
    seen = {hop(name): Counter[Passing]({"requests": 1, "answers": 1}) for name in REPLICAS}
    if lost:
        seen[hop("shifts-1")]["answers lost"] += 1
        seen[hop("shifts-2")]["requests lost"] += 1
    return seen


def result(seen: dict[str, Counter[Passing]]) -> Result:
    return Result(PROCESSES, 1, wires=seen, redelivered=1, replayed_answers=1)


def test_a_run_whose_wires_lost_requests_and_answers_proves_something() -> None:
    assert result(wires(lost=True)).problems == []


def test_a_run_whose_cuts_met_no_request_proves_nothing() -> None:
    assert result(wires(lost=False)).problems == [
        "proves nothing: no requests lost between the gateway and shifts",
        "proves nothing: no answers lost between the gateway and shifts",
    ]


def test_a_run_in_which_a_service_was_called_past_its_wires_proves_nothing() -> None:
    seen = wires(lost=True)
    del seen[hop("accounts-1")], seen[hop("accounts-2")]
    assert result(seen).problems == ["proves nothing: accounts was not called through its wires"]


def test_one_process_has_no_wires_inside() -> None:
    assert Result(ONE_PROCESS, 1, redelivered=1, replayed_answers=1).problems == []


def failed(*broken: str) -> Availability:
    """A shift that was answered 503 while these were broken."""
    operation = Operation("log-1", "log", {"place": 1001})
    told = Told(operation, [Attempt("log-1.1", 100.0, "unknown", 101.0, 503)])
    return availability([told], [Span(name, 90.0, 100.5) for name in broken])["log"]


def test_a_request_that_failed_beside_a_whole_replica_is_told() -> None:
    assert failed("shifts-1", hop("accounts-2"), "nats-server") == Availability(1, 1, 0, 1)


def test_a_request_that_failed_where_no_replica_was_whole_is_told_apart() -> None:
    assert failed("shifts-1", hop("shifts-2")) == Availability(1, 1, 0, 0)
    assert failed("mongod") == Availability(1, 1, 0, 0)


def test_what_a_client_sent_twice_at_once_is_no_repeat_of_our_own() -> None:
    operation = Operation("log-1", "log", {"place": 1001})
    replayed = Attempt("log-1.1", 100.0, "ok", 101.0, 200, is_replay=True)
    assert repeated_inside(Told(operation, [replayed]))
    assert repeated_inside(
        Told(operation, [replayed, Attempt("log-1.2", 105.0, "ok", 106.0, 200, is_replay=True)])
    )
    assert not repeated_inside(Told(operation, [replayed, Attempt("log-1.2", 100.1, "ok", 100.9, 200)]))
