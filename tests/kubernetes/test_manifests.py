"""The manifests and the code agree: settings, secrets, images, ports, and how long a stop may take."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from callboard.rights import mongodb_ops_roles, mongodb_privileges, nats_subjects, nats_users
from common.chassis.limits import ChassisLimits
from common.group import load_group
from common.settings import ProcessSettings, Settings, read_settings
from tests.architecture.repository import SERVICES
from tests.architecture.test_documentation import settings_of
from tests.kubernetes.manifests import (
    K8S,
    OVERLAYS,
    documents,
    generated,
    objects,
    of_kind,
    overlay,
    workloads,
)
from tests.monitoring.files import rules
from tests.support import ROOT

SERVED = (*SERVICES, "gateway")
WORKLOADS = workloads()
PAGE = ROOT / "docs" / "kubernetes.md"


def model_of(package: str) -> type[ProcessSettings]:
    return Settings if package == "ops" else settings_of(package)


def test_every_service_and_the_gateway_has_a_deployment_and_nothing_else_has() -> None:
    assert set(WORKLOADS) == {*SERVED, "ops", "migrate"}
    assert {one.package for one in WORKLOADS.values()} == {*SERVED, "ops"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_setting_in_a_manifest_exists(name: str) -> None:
    known = {f"CALLBOARD_{field.upper()}" for field in model_of(WORKLOADS[name].package).model_fields}
    given = {variable for variable in WORKLOADS[name].env if variable.startswith("CALLBOARD_")}
    assert given <= known | {"CALLBOARD_SECRETS_DIR"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_setting_of_an_overlay_exists(name: str) -> None:
    known = {f"CALLBOARD_{field.upper()}" for package in SERVED for field in model_of(package).model_fields}
    assert set(generated(name, "configMap")["callboard-settings"]) <= known


@pytest.fixture(scope="module")
def made_secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the operator of a live group makes."""
    folder = tmp_path_factory.mktemp("secrets")
    subprocess.run([K8S / "platform/make-secrets", folder], check=True)
    return folder


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("where", OVERLAYS)
def test_every_process_starts_with_what_it_is_given(
    name: str, where: str, made_secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = WORKLOADS[name]
    for variable in {**generated(where, "configMap")["callboard-settings"], **workload.env}.items():
        monkeypatch.setenv(*variable)
    monkeypatch.setenv("CALLBOARD_SECRETS_DIR", str(tmp_path))
    for secret, may_be_missing in workload.secrets:
        if may_be_missing:
            continue
        if where == "local":
            for key, value in generated(where, "secret")[secret].items():
                (tmp_path / key).write_text(value)
        else:
            for file in (made_secrets / "callboard" / secret).iterdir():
                shutil.copy(file, tmp_path)
    read_settings(model_of(workload.package))


def test_the_passwords_made_are_the_servers_and_stay_what_they_are(made_secrets: Path) -> None:
    def contents() -> dict[Path, str]:
        return {path: path.read_text() for path in made_secrets.rglob("*") if path.is_file()}

    before = contents()
    subprocess.run([K8S / "platform/make-secrets", made_secrets], check=True)
    assert contents() == before
    (database,) = documents(K8S / "platform/mongodb.yaml")
    for user in database["spec"]["users"]:
        password = before[made_secrets / "mongodb" / user["passwordSecretRef"]["name"] / "password"]
        assert (
            f"//{user['name']}:{password}@"
            in before[made_secrets / "callboard" / f"callboard-{user['name']}" / "callboard_mongo_url"]
        )
    (values,) = documents(K8S / "platform/nats-values.yaml")
    for variable in values["container"]["env"].values():
        found = variable["valueFrom"]["secretKeyRef"]
        password = before[made_secrets / "nats" / found["name"] / found["key"]]
        url = before[made_secrets / "callboard" / f"callboard-{found['key']}" / "callboard_nats_url"]
        assert f"//{found['key']}:{password}@" in url


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_secret_is_mounted_where_the_process_looks_and_told_of_on_the_page(name: str) -> None:
    workload = WORKLOADS[name]
    mounts = {mount["name"]: mount["mountPath"] for mount in workload.container["volumeMounts"]}
    assert mounts["secrets"] == workload.env["CALLBOARD_SECRETS_DIR"]
    text = PAGE.read_text("utf-8")
    for secret, _ in workload.secrets:
        assert f"`{secret}`" in text, f"docs/kubernetes.md does not say what {secret} holds"


@pytest.mark.parametrize("name", [*SERVED, "ops"])  # the migration reads none
def test_the_configuration_is_mounted_where_the_process_looks(name: str) -> None:
    workload = WORKLOADS[name]
    mounts = {mount["name"]: mount["mountPath"] for mount in workload.container["volumeMounts"]}
    assert workload.env["CALLBOARD_CONFIG"] == f"{mounts['config']}/callboard.toml"


def test_each_pod_has_its_own_users_of_the_servers_and_secrets_of_its_own_plugins_only() -> None:
    for package in SERVED:
        own = {"callboard-internal", f"callboard-{package}", f"callboard-{package}-plugins"}
        assert {secret for secret, _ in WORKLOADS[package].secrets} <= own
    assert {secret for secret, _ in WORKLOADS["migrate"].secrets} == {"callboard-internal", "callboard-ops"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_configuration_of_an_overlay_is_valid(name: str) -> None:
    load_group(K8S / "overlays" / name / "callboard.toml")


def test_the_park_to_try_out_is_the_one_that_is_shipped() -> None:
    tried = K8S / "overlays/local/callboard.toml"
    assert tried.read_text("utf-8") == (ROOT / "callboard.toml").read_text("utf-8"), "run k8s/refresh"


def test_every_image_has_a_build_and_every_overlay_gives_it_a_tag() -> None:
    images = {one.container["image"] for one in WORKLOADS.values()}
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"].values()
    built = {f"callboard-{one['build']['args']['SERVICE']}" for one in composed if "build" in one}
    assert images == built, "what docker-compose.yml builds, by the SERVICE of the Dockerfile"
    for name in OVERLAYS:
        tags = {image["name"]: image["newTag"] for image in overlay(name)["images"]}
        assert set(tags) >= images
        assert "latest" not in tags.values()


@pytest.mark.parametrize("name", SERVED)
def test_each_port_is_the_one_that_the_process_listens_on(name: str) -> None:
    workload = WORKLOADS[name]
    model = model_of(name)
    assert workload.ports["http"] == model.model_fields["port"].default
    assert workload.env["CALLBOARD_HOST"] == "0.0.0.0"  # noqa: S104 - of the pod
    if name == "gateway":
        assert str(workload.ports["metrics"]) == workload.env["CALLBOARD_METRICS_PORT"]


@pytest.mark.parametrize("name", SERVED)
def test_each_process_is_probed_for_life_and_for_readiness(name: str) -> None:
    workload = WORKLOADS[name]
    assert {kind: probe["path"] for kind, probe in workload.probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in workload.probes.values()} == {"http"}


def test_whoever_is_called_by_name_has_a_service_of_that_name_and_port() -> None:
    services = of_kind("Service", objects("base"))
    fields = {
        (field.removesuffix("_url"), model.model_fields[field].default)
        for model in map(model_of, SERVED)
        for field in model.model_fields
        if field.endswith("_url") and field.removesuffix("_url") in SERVICES
    }
    for called, url in fields:
        (port,) = services[called]["spec"]["ports"]
        assert url == f"http://{called}:{port['port']}"
        assert WORKLOADS[called].ports[port["targetPort"]] == port["port"], (
            "headless: nothing translates ports"
        )
    for name, service in services.items():
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": name}


@pytest.mark.parametrize("name", SERVED)
def test_a_pod_is_given_the_time_to_finish(name: str) -> None:
    """Two more than the drain are in server.py: 10 s for requests under way, and what closes behind them (6 s)."""
    spec = WORKLOADS[name].pod["spec"]
    before = WORKLOADS[name].container["lifecycle"]["preStop"]["sleep"]["seconds"]
    if of_kind("Service", objects("base")).get(name, {"spec": {}})["spec"].get("clusterIP") == "None":
        assert before >= 30 + 5, "DNS keeps an answer for 30 s where nobody told it otherwise"
    assert before >= 10, "an ingress controller takes some seconds to learn that a pod leaves"
    stop = ChassisLimits()
    assert spec["terminationGracePeriodSeconds"] > before + stop.drain_seconds + stop.finish_seconds + 6


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_pod_has_a_token_of_the_cluster_or_variables_that_look_like_settings(name: str) -> None:
    spec = WORKLOADS[name].pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "a Service named callboard would set CALLBOARD_PORT"


def test_every_deployment_that_serves_has_a_disruption_budget() -> None:
    base = objects("base")
    assert set(of_kind("PodDisruptionBudget", base)) == set(SERVED)
    for name, budget in of_kind("PodDisruptionBudget", base).items():
        assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "else no node can be emptied"
    scaled = of_kind("HorizontalPodAutoscaler", base)
    for name, deployment in of_kind("Deployment", base).items():
        assert ("replicas" in deployment["spec"]) != (name in scaled), "one of the two decides"


def test_the_rules_for_the_operator_are_the_alerts() -> None:
    (found,) = objects("components/prometheus-operator")[-1:]
    assert found["kind"] == "PrometheusRule"
    here = [rule for group in found["spec"]["groups"] for rule in group["rules"]]
    assert here == rules(), "run k8s/refresh"


def test_whatever_reads_metrics_reads_those_of_every_process() -> None:
    monitors = of_kind("PodMonitor", objects("components/prometheus-operator"))
    (expression,) = monitors["services"]["spec"]["selector"]["matchExpressions"]
    assert set(expression["values"]) == set(SERVICES)
    scrape = yaml.safe_load((K8S / "components/monitoring/scrape.yml").read_text("utf-8"))
    (job,) = scrape["scrape_configs"]
    assert job["job_name"] == "callboard"
    kept = re.compile(job["relabel_configs"][0]["regex"])
    for name in SERVED:
        ports = [port for port in WORKLOADS[name].ports if kept.fullmatch(f"{name};{port}")]
        assert ports == ["metrics" if name == "gateway" else "http"]


def test_each_user_of_mongodb_may_do_what_it_may_in_containers() -> None:
    (database,) = documents(K8S / "platform/mongodb.yaml")
    spec = database["spec"]
    assert {role["db"]: role["privileges"] for role in spec["security"]["roles"]} == {
        name: mongodb_privileges(name) for name in SERVED
    }
    roles = {
        user["name"]: [{"db": role["db"], "role": role["name"]} for role in user["roles"]]
        for user in spec["users"]
    }
    ops = roles.pop("ops")
    assert sorted(ops, key=str) == sorted(mongodb_ops_roles(), key=str)
    assert roles == {name: [{"db": name, "role": "service"}] for name in SERVED}


def test_mongodb_has_no_compression_that_reads_what_it_should_not() -> None:
    (database,) = documents(K8S / "platform/mongodb.yaml")
    version = tuple(int(part) for part in database["spec"]["version"].split("."))
    assert (8, 0, 17) <= version < (8, 1), "CVE-2025-14847 was mended there"
    assert database["spec"]["additionalMongodConfig"]["net.compression.compressors"] == "disabled"


def test_a_restore_begins_when_nothing_serves() -> None:
    """An autoscaler would leave at nothing, for good, what is scaled to it; what is gone begins anew."""
    (command,) = re.findall(
        r"^kubectl .* delete deployment (.*) --cascade=foreground$", PAGE.read_text("utf-8"), re.M
    )
    assert set(command.split()) == set(SERVED)


def test_each_user_of_nats_may_do_what_it_may_in_containers() -> None:
    (values,) = documents(K8S / "platform/nats-values.yaml")
    (account,) = values["config"]["merge"]["accounts"].values()
    allowed = {user["user"]: user["permissions"]["publish"] for user in account["users"]}
    assert allowed == {name: list(nats_subjects(name)) for name in nats_users()}
    assert {tuple(user["permissions"]["subscribe"]) for user in account["users"]} == {("_INBOX.>",)}


def test_nats_keeps_what_it_acknowledged() -> None:
    (values,) = documents(K8S / "platform/nats-values.yaml")
    assert values["config"]["jetstream"]["merge"]["sync_interval"] == "always"
    stream_replicas = generated("prod", "configMap")["callboard-settings"]["CALLBOARD_STREAM_REPLICAS"]
    assert values["config"]["cluster"]["replicas"] == json.loads(stream_replicas)
