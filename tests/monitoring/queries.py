"""What the code lets Prometheus see, and whether a query asks for what is there."""

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import promql_parser as promql
from prometheus_client.metrics import MetricWrapperBase

from common import metrics
from common.app import Boundary
from common.events import EVENTS
from gateway.routes import load_routes
from tests.architecture.repository import SERVICES
from tests.monitoring.files import prometheus

for _package in (*SERVICES, "gateway"):
    importlib.import_module(f"{_package}.main")  # so that all they declare is declared

DECLARED = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]


@dataclass(frozen=True)
class Series:
    """A name that a query can ask for: of which metric, and with which labels."""

    metric: str
    is_counter: bool
    labels: frozenset[str]


def series_of(name: str, kind: str, labels: frozenset[str]) -> Iterator[tuple[str, Series]]:
    """The series of one metric, as the exposition format names them."""
    if kind == "histogram":
        yield f"{name}_bucket", Series(name, is_counter=True, labels=labels | {"le"})
        yield f"{name}_count", Series(name, is_counter=True, labels=labels)
        yield f"{name}_sum", Series(name, is_counter=True, labels=labels)
    elif kind == "counter":
        yield f"{name}_total", Series(f"{name}_total", is_counter=True, labels=labels)
    else:
        yield name, Series(name, is_counter=False, labels=labels)


TARGET = frozenset({"job", "instance"})
"""The labels that Prometheus puts on all that it reads."""

SERIES: Mapping[str, Series] = {
    name: series
    for metric in DECLARED
    for family in metric.describe()
    # There is no public way to ask a metric for its labels.
    for name, series in series_of(family.name, family.type, TARGET.union(metric._labelnames))
} | {
    "up": Series("up", is_counter=False, labels=TARGET),
    "process_start_time_seconds": Series("process_start_time_seconds", is_counter=False, labels=TARGET),
}

VALUES: Mapping[str, frozenset[str]] = {
    "service": frozenset({*SERVICES, "gateway"}),
    "upstream": frozenset(SERVICES),
    "route": frozenset({route.path for route in load_routes().all} | Boundary.OPEN | {"other"}),
    "status": frozenset(map(str, range(200, 600))),
    "key": frozenset({"", "the name of a key"}),
    "subject": frozenset(event.SUBJECT for event in EVENTS),
    "job": frozenset(job["job_name"] for job in prometheus("prometheus.yml")["scrape_configs"]),
}
"""What labels can say."""


class Mistake(Exception):
    """A query that can find nothing, or not what it seems to."""


def parse(query: str) -> promql.Expr:
    """A query of the dashboard or of a rule; Grafana's own variable stands for a time."""
    return promql.parse(query.replace("$__rate_interval", "5m"))


def asked(query: str) -> set[str]:
    """The metrics that a query asks for."""
    found: set[str] = set()

    def note(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            found.add(SERIES[node.name or ""].metric)

    promql.walk(parse(query), note)
    return found


def labels_of(node: promql.Expr) -> frozenset[str]:
    """The labels of what a query finds. Raises Mistake when no process could ever show it."""
    match node:
        case promql.ParenExpr():
            return labels_of(node.expr)
        case promql.NumberLiteral():
            return frozenset()
        case promql.VectorSelector():
            return _selected(node, counter=False)
        case promql.AggregateExpr():
            return _aggregated(node)
        case promql.Call():
            return _called(node)
        case promql.BinaryExpr():
            left, right = labels_of(node.lhs), labels_of(node.rhs)
            matching = node.modifier.matching if node.modifier else None
            _need(frozenset(matching.labels if matching else ()), left & right, "matches on")
            return left
    raise Mistake(f"{type(node).__name__} is new here: say what labels it leaves")


def _need(wanted: frozenset[str], there: frozenset[str], does: str) -> None:
    if not wanted <= there:
        raise Mistake(f"{does} {sorted(wanted - there)}, where there is only {sorted(there)}")


def _selected(node: promql.VectorSelector, *, counter: bool) -> frozenset[str]:
    series = SERIES.get(node.name or "")
    if series is None:
        raise Mistake(f"there is no {node.name}")
    if series.is_counter != counter:
        raise Mistake(f"{node.name}: of a counter its rise, and only of a counter")
    for matcher in node.matchers.matchers:
        _need(frozenset({matcher.name}), series.labels, f"{node.name} has no")
        is_pattern = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
        _need_value(matcher.name, matcher.value if is_pattern else re.escape(matcher.value))
    return series.labels


def _need_value(label: str, pattern: str) -> None:
    if not any(re.fullmatch(pattern, value) for value in VALUES[label]):
        raise Mistake(f"{label} is never {pattern}")


def _aggregated(node: promql.AggregateExpr) -> frozenset[str]:
    inner = labels_of(node.expr)
    if node.modifier is None:
        return frozenset()
    if node.modifier.type != promql.AggModifierType.By:
        raise Mistake("say what it is summed up by, so that a later label changes nothing")
    by = frozenset(node.modifier.labels)
    _need(by, inner, "is summed up by")
    return by


def _called(node: promql.Call) -> frozenset[str]:
    match node.func.name, list(node.args):
        case "rate" | "increase", [promql.MatrixSelector() as matrix]:
            return _selected(matrix.vector_selector, counter=True)
        case "histogram_quantile", [_, buckets]:
            labels = labels_of(buckets)
            _need(frozenset({"le"}), labels, "takes a quantile by")
            return labels - {"le"}
        case "label_replace", [vector, target, _, source, pattern]:
            labels = labels_of(vector)
            _need(frozenset({source.val}), labels, "replaces from")
            _need_value(source.val, pattern.val)
            return labels | {target.val}
        case "time" | "vector", _:
            return frozenset()
    raise Mistake(f"{node.func.name} is new here: say what labels it leaves")
