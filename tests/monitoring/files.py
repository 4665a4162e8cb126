"""What the monitoring folder holds: the dashboard's panels and the rules of the alerts."""

import json
from typing import Any

import yaml

from tests.support import ROOT

FOLDER = ROOT / "monitoring"


def dashboard() -> dict[str, Any]:
    """The dashboard as it is handed to Grafana."""
    read: dict[str, Any] = json.loads((FOLDER / "grafana/dashboards/callboard.json").read_text("utf-8"))
    return read


def panels() -> list[dict[str, Any]]:
    """The panels that show something: all but the headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def prometheus(name: str) -> dict[str, Any]:
    """A file of Prometheus's."""
    read: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus" / name).read_text("utf-8"))
    return read


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    return [rule for group in prometheus("alerts.yml")["groups"] for rule in group["rules"]]
