"""What the dashboard and the alerts ask for is what the code shows, and all that it shows is asked for."""

import re

import pytest
from prometheus_client import REGISTRY

from tests.monitoring.files import panels, rules
from tests.monitoring.queries import DECLARED, SERIES, Mistake, asked, labels_of, parse

NOT_SHOWN = ("python_", "process_")
"""Of the interpreter and the process, by the library: whoever watches the machine has them already."""

SHOWN = [(panel["title"], target) for panel in panels() for target in panel["targets"]]
QUERIES = [target["expr"] for _, target in SHOWN] + [rule["expr"] for rule in rules()]


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_metrics_labels_and_values_that_exist(query: str) -> None:
    labels_of(parse(query))


@pytest.mark.parametrize(
    ("title", "target"), SHOWN, ids=lambda given: given if isinstance(given, str) else ""
)
def test_a_legend_tells_every_line_of_a_panel_from_the_others(title: str, target: dict[str, str]) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
    assert named == labels_of(parse(target["expr"])), title


def test_the_dashboard_shows_every_metric_that_is_not_left_out_on_purpose() -> None:
    shown = {metric for _, target in SHOWN for metric in asked(target["expr"])}
    of_the_code = {
        series.metric for name, series in SERIES.items() if name != "up" and not name.startswith(NOT_SHOWN)
    }
    assert shown - {"up"} == of_the_code


def test_every_metric_is_declared_in_the_one_module_that_these_tests_look_at() -> None:
    declared = {family.name for metric in DECLARED for family in metric.describe()}
    registered = {family.name for family in REGISTRY.collect() if not family.name.startswith(NOT_SHOWN)}
    assert registered == declared


@pytest.mark.parametrize(
    "query",
    [
        "rate(callboard_request_total[5m])",
        "rate(callboard_requests[5m])",
        "callboard_requests_total",
        "rate(callboard_outbox_unsent[5m])",
        'rate(callboard_requests_total{code="500"}[5m])',
        'rate(callboard_requests_total{service="gatewy"}[5m])',
        'rate(callboard_requests_total{service!="gatewy"}[5m])',
        'rate(callboard_requests_total{route="/logs"}[5m])',
        'rate(callboard_requests_total{route!~"/(health|ready)"}[5m])',
        'rate(callboard_requests_total{status=~"5"}[5m])',
        "sum by (path) (rate(callboard_requests_total[5m]))",
        "sum without (key) (rate(callboard_requests_total[5m]))",
        "sum by (key) (sum by (route) (rate(callboard_requests_total[5m])))",
        "histogram_quantile(0.99, rate(callboard_request_seconds_sum[5m]))",
        "histogram_quantile(0.99, sum by (route) (rate(callboard_request_seconds_bucket[5m])))",
        'label_replace(callboard_outbox_unsent, "a", "$1", "name", "(.*)")',
        'label_replace(rate(callboard_events_handled_total[5m]), "a", "$1", "subject", "callboard-(.*)")',
        "callboard_outbox_unsent and on (subject) rate(callboard_events_handled_total[5m])",
        'up{job="callboards"} == 0',
        "stddev_over_time(callboard_outbox_unsent[5m])",
    ],
)
def test_a_query_that_could_find_nothing_is_seen(query: str) -> None:
    with pytest.raises(Mistake):
        labels_of(parse(query))
