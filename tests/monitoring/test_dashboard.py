"""The dashboard is what Grafana expects of one that it reads from a file."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.monitoring.files import dashboard, panels, rules

register_default_plugins()

PANELS = pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])


def unknown(given: Any, kept: Any, path: str = "") -> list[str]:
    """What Grafana's own model of a dashboard does not keep of what it was given."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [one for name in given for one in unknown(given[name], kept.get(name, ...), f"{path}.{name}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [
            one
            for number, pair in enumerate(zip(given, kept, strict=True))
            for one in unknown(*pair, f"{path}[{number}]")
        ]
    return [] if given == kept else [path]


def strangers(given: dict[str, Any]) -> list[str]:
    """The fields of a dashboard that are not of Grafana's schema."""
    return unknown(given, json.loads(json.dumps(Dashboard.from_json(given), cls=JSONEncoder)))


def test_every_field_is_one_that_grafana_knows() -> None:
    assert strangers(dashboard()) == []


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (dashboard(), "templates"),
        (dashboard()["panels"][1], "gridpos"),
        (dashboard()["panels"][1]["targets"][0], "query"),
        (dashboard()["panels"][1]["fieldConfig"]["defaults"], "units"),
        (dashboard()["panels"][1]["options"], "colourMode"),
        (dashboard()["templating"]["list"][0], "kind"),
    ],
)
def test_a_field_that_grafana_does_not_know_is_seen(part: dict[str, Any], name: str) -> None:
    text = json.dumps(dashboard())
    assert json.dumps(part) in text
    changed = json.loads(text.replace(json.dumps(part), json.dumps(part | {name: "x"})))
    assert strangers(changed)


def test_it_has_a_name_of_its_own_and_no_number_of_one_grafana() -> None:
    assert dashboard()["uid"] == "callboard"
    assert "id" not in dashboard() and "version" not in dashboard()


def test_whoever_looks_chooses_the_prometheus() -> None:
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )


@PANELS
def test_a_panel_asks_the_chosen_prometheus_and_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
    assert all(
        target.get("datasource", panel["datasource"]) == panel["datasource"] for target in panel["targets"]
    )
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))


def test_every_panel_has_a_number_and_a_title_of_its_own() -> None:
    for field in ("id", "title"):
        values = [panel[field] for panel in dashboard()["panels"]]
        assert len(values) == len(set(values))


def test_panels_are_on_the_grid_and_none_covers_another() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard()["panels"]]
    for title, place in places:
        assert place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24 and place["h"] > 0, title
    for (title, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{title} covers {other}"


def test_every_alert_has_a_panel_that_names_it_and_no_other_is_named() -> None:
    named = {name for panel in panels() for name in re.findall(r"Callboard[A-Z]\w+", panel["description"])}
    assert named == {rule["alert"] for rule in rules()}
