"""docs/operating.md and the rules of Prometheus name the same alerts, for the same reasons."""

import re
from typing import Any

import promql_parser as promql
import pytest

from tests.monitoring.files import FOLDER, prometheus, rules
from tests.monitoring.queries import SERIES, asked, parse
from tests.support import ROOT

PAGE = (ROOT / "docs/operating.md").read_text("utf-8")


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the page's table with this heading: by the name in the first cell, the other cells."""
    text = PAGE.split(f"\n{heading}\n", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()[1:]]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0].strip("`"): row[1:] for row in rows}


ALERTS = table("| alert | when | what to do |")
METRICS = table("| metric | what it counts | alert |")


def test_the_page_and_the_rules_name_the_same_alerts() -> None:
    names = [rule["alert"] for rule in rules()]
    assert sorted(names) == sorted(ALERTS)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_the_page_says_when_an_alert_comes(rule: dict[str, Any]) -> None:
    minutes = re.fullmatch(r"(\d+)m", rule.get("for", "0m"))
    assert minutes
    lasting = {"0": "", "1": ", for 1 minute"}.get(minutes[1], f", for {minutes[1]} minutes")
    assert ALERTS[rule["alert"]][0] == rule["annotations"]["summary"] + lasting


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_what_an_alert_says_is_what_it_compares_with(rule: dict[str, Any]) -> None:
    said = re.findall(r"more than ([\d,]+)( %)?", rule["annotations"]["summary"], re.IGNORECASE)
    limits = {float(number.replace(",", "")) / (100 if percent else 1) for number, percent in said}
    compared: set[float] = set()

    def note(node: promql.Expr) -> None:
        if isinstance(node, promql.BinaryExpr) and str(node.op) == ">":
            assert isinstance(node.rhs, promql.NumberLiteral)
            compared.add(node.rhs.val)

    promql.walk(parse(rule["expr"]), note)
    assert compared - {0} == limits


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_the_section_that_says_what_to_do(rule: dict[str, Any]) -> None:
    page, anchor = rule["annotations"]["runbook"].split("#")
    assert page == "docs/operating.md"
    headings = re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE)
    assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert f"](#{anchor})" in ALERTS[rule["alert"]][1]
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_page_lists_every_metric_and_no_other() -> None:
    assert set(METRICS) == {
        series.metric for series in SERIES.values() if not series.metric.startswith("process_")
    }


def test_the_page_says_which_metric_an_alert_is_about() -> None:
    named = {
        (alert, metric) for metric, cells in METRICS.items() for alert in re.findall(r"`(\w+)`", cells[-1])
    }
    assert {alert for alert, _ in named} == set(ALERTS)
    assert named <= {(rule["alert"], metric) for rule in rules() for metric in asked(rule["expr"])}


def test_prometheus_reads_the_alerts_and_the_port_that_the_page_names() -> None:
    configuration = prometheus("prometheus.yml")
    assert configuration["rule_files"] == ["alerts.yml"]
    (job,) = configuration["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert f"CALLBOARD_METRICS_PORT={target.split(':')[1]} callboard up" in PAGE


def test_the_page_says_where_each_file_is() -> None:
    """But for what Compose and Kubernetes read themselves."""
    for name in ("prometheus/prometheus.yml", "prometheus/alerts.yml", "grafana/dashboards/callboard.json"):
        path = FOLDER / name
        assert path.is_file()
        assert f"](../{path.relative_to(ROOT).as_posix()})" in PAGE
