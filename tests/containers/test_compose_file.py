"""docker-compose.yml and what stands beside it fit the code. These need no container engine."""

from typing import Any

import pytest
import yaml

import gateway.settings
from applications.settings import ApplicationsSettings
from callboard.services import DATABASES, SERVICES
from tests.containers.engine import COMPOSE_FILE
from tests.support import ROOT

FILE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text("utf-8"))
PARTS: dict[str, dict[str, Any]] = FILE["services"]
OURS = (*DATABASES, "ops")


@pytest.mark.parametrize("name", OURS)
def test_there_is_an_image_and_a_container_of_each_service(name: str) -> None:
    part = PARTS[name]
    assert part["image"] == f"callboard-{name}"
    assert part["build"]["args"]["SERVICE"] == name


def test_secrets_are_mounted_by_their_reader_alone_and_by_who_writes_them() -> None:
    readers: dict[str, set[str]] = {}
    for name, part in PARTS.items():
        for volume in part.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("secrets-"):
                readers.setdefault(source, set()).add(name)
                assert name == "secrets" or str(volume).endswith(":ro")
    expected = {name: {name} for name in (*DATABASES, "mongo", "nats", "grafana")}
    expected |= {"ops": {"ops", "migrate"}, "admin": {"users"}}
    assert readers == {f"secrets-{name}": {*who, "secrets"} for name, who in expected.items()}


@pytest.mark.parametrize("name", OURS)
def test_a_container_is_told_nothing_that_nobody_reads(name: str) -> None:
    fields = {*gateway.settings.GatewaySettings.model_fields, *ApplicationsSettings.model_fields}
    settings = {f"CALLBOARD_{field.upper()}" for field in fields}
    plugins = {"ROBLOX_KEY", "BLOXLINK_KEY", "ROVER_KEY", "PASTEBIN_KEY", "DISCORD_WEBHOOK"}
    assert set(PARTS[name]["environment"]) <= settings | {f"CALLBOARD_{secret}" for secret in plugins}


@pytest.mark.parametrize("name", SERVICES)
def test_the_operator_s_command_is_told_what_the_services_are(name: str) -> None:
    """`doctor` looks at all of it."""
    assert PARTS[name]["environment"].items() <= PARTS["ops"]["environment"].items()


@pytest.mark.parametrize("name", [name for name in PARTS if name != "secrets"])
def test_a_container_gets_no_more_than_it_needs(name: str) -> None:
    part = PARTS[name]
    assert part["read_only"] and part["cap_drop"] == ["ALL"] and "cap_add" not in part
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert part["mem_limit"] and part["cpus"] and part["pids_limit"]
    assert part.get("user", "10001:10001") in ("10001:10001", "10002:10002", "10003:10003")


def test_the_gateway_alone_has_a_port_unless_metrics_are_asked_for() -> None:
    assert [name for name, part in PARTS.items() if part.get("ports") and "profiles" not in part] == [
        "gateway"
    ]
    assert [name for name, part in PARTS.items() if "published" in part.get("networks", ())] == [
        "gateway",
        "prometheus",
        "grafana",
    ]


def test_prometheus_reads_every_replica_of_every_service() -> None:
    file = yaml.safe_load((ROOT / "monitoring/prometheus/containers.yml").read_text("utf-8"))
    (job,) = file["scrape_configs"]
    assert job["job_name"] == "callboard"
    targets = {(name, found["port"]) for found in job["dns_sd_configs"] for name in found["names"]}
    port = PARTS["gateway"]["environment"]["CALLBOARD_METRICS_PORT"]
    assert targets == {("gateway", port), *((service, 8000) for service in SERVICES)}
    assert (ROOT / "monitoring/prometheus" / file["rule_files"][0]).exists()
