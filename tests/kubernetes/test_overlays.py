"""What kustomize makes of each overlay: nothing dangles, and no pod may be more than it is."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from common.group import load_group
from tests.architecture.repository import SERVICES
from tests.kubernetes.manifests import K8S, OVERLAYS, Object, of_kind
from tests.support import ROOT

OVERLAY_FOLDERS = {name: K8S / "overlays" / name for name in OVERLAYS} | {
    "everything": Path(__file__).with_name("everything")
}
PAGE = ROOT / "docs" / "kubernetes.md"

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="NOT CHECKED: there is no kubectl to render the overlays with"
)


@cache
def rendered(name: str) -> list[Object]:
    command = ["kubectl", "kustomize", str(OVERLAY_FOLDERS[name])]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert not made.stderr, made.stderr
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def pods(name: str) -> Iterator[tuple[str, Object]]:
    """The pod template of everything that runs."""
    for one in rendered(name):
        if one["kind"] in ("Deployment", "Job", "StatefulSet"):
            yield one["metadata"]["name"], one["spec"]["template"]


def references(pod: Object) -> Iterator[tuple[str, str]]:
    """The ConfigMaps and Secrets that a pod cannot start without."""
    for volume in pod["spec"].get("volumes", ()):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        for source in volume.get("projected", {}).get("sources", ()):
            if not source["secret"].get("optional"):
                yield "Secret", source["secret"]["name"]
    for source in pod["spec"]["containers"][0].get("envFrom", ()):
        yield "ConfigMap", source["configMapRef"]["name"]


@pytest.mark.parametrize("name", OVERLAY_FOLDERS)
def test_whatever_a_pod_reads_is_there_or_told_of_on_the_page(name: str) -> None:
    found = rendered(name)
    for owner, pod in pods(name):
        for kind, wanted in references(pod):
            if kind == "Secret" and name != "local":
                assert wanted not in of_kind(kind, found), "no secret is in a file of a live overlay"
                assert f"`{wanted}`" in PAGE.read_text("utf-8"), f"{owner}: {wanted}"
            else:
                assert wanted in of_kind(kind, found), f"{owner}: {wanted}"


@pytest.mark.parametrize("name", OVERLAY_FOLDERS)
def test_a_changed_configuration_makes_new_pods(name: str) -> None:
    """Its name has a hash of what is in it."""
    for wanted in of_kind("ConfigMap", rendered(name)):
        if wanted.startswith(("callboard-config", "callboard-settings")):
            assert len(wanted.rpartition("-")[2]) == 10, wanted


@pytest.mark.parametrize("name", OVERLAY_FOLDERS)
def test_no_container_may_be_more_than_it_is(name: str) -> None:
    for owner, pod in pods(name):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, owner
        assert spec["securityContext"]["runAsNonRoot"] is True, owner
        assert spec["securityContext"]["runAsUser"] >= 10_000, owner
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, owner
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, owner
            assert "memory" in container["resources"]["limits"], owner
    (namespace,) = of_kind("Namespace", rendered(name)).values()
    assert namespace["metadata"]["name"] == "callboard"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", OVERLAY_FOLDERS)
def test_everything_is_in_the_namespace_and_every_image_has_a_tag(name: str) -> None:
    for one in rendered(name):
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "callboard", one["metadata"]["name"]
    for owner, pod in pods(name):
        for container in pod["spec"]["containers"]:
            assert container["image"].rpartition(":")[2] not in ("", "latest"), owner
            assert ":" in container["image"], owner


@pytest.mark.parametrize("name", OVERLAY_FOLDERS)
def test_what_selects_or_scales_finds_what_it_is_for(name: str) -> None:
    found = rendered(name)
    templates = dict(pods(name))
    for service in of_kind("Service", found).values():
        chosen = [
            pod
            for pod in templates.values()
            if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ]
        assert chosen, service["metadata"]["name"]
        ports = {port["name"] for pod in chosen for port in pod["spec"]["containers"][0].get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    scaled = [
        one["spec"]["scaleTargetRef"]["name"]
        for one in found
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(scaled) == len(set(scaled)), "two would pull at one Deployment"
    deployments = of_kind("Deployment", found)
    for one in scaled:
        assert "replicas" not in deployments[one]["spec"], one
    (rule,) = of_kind("Ingress", found)["gateway"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] in of_kind("Service", found)


@pytest.mark.parametrize("name", OVERLAY_FOLDERS)
def test_people_are_sent_to_the_address_that_the_ingress_answers_at(name: str) -> None:
    found = rendered(name)
    settings = next(
        one["data"] for wanted, one in of_kind("ConfigMap", found).items() if "callboard-settings" in wanted
    )
    url = urlsplit(settings["CALLBOARD_PUBLIC_URL"])
    spec = of_kind("Ingress", found)["gateway"]["spec"]
    assert spec["rules"][0]["host"] == url.hostname
    if url.scheme == "https":
        assert spec["tls"][0]["hosts"] == [url.hostname]


def test_each_gateway_of_prod_lets_its_part_of_every_rate_pass() -> None:
    options = load_group(OVERLAY_FOLDERS["prod"] / "callboard.toml").plugins.options["rate_limit"]
    scaler = of_kind("HorizontalPodAutoscaler", rendered("prod"))["gateway"]
    assert options["replicas"] == scaler["spec"]["minReplicas"]


@pytest.mark.parametrize("overlay", ["prod", "everything"])
def test_prod_runs_three_of_each_spread_over_zones(overlay: str) -> None:
    found = rendered(overlay)
    scalers = of_kind("HorizontalPodAutoscaler", found)
    by_events = of_kind("ScaledObject", found)
    for name in (*SERVICES, "gateway"):
        spec = of_kind("Deployment", found)[name]["spec"]
        if name in by_events:
            least = by_events[name]["spec"]["minReplicaCount"]
        else:
            least = scalers[name]["spec"]["minReplicas"] if name in scalers else spec["replicas"]
        assert least == 3, name
        spread = spec["template"]["spec"]["topologySpreadConstraints"]
        assert "topology.kubernetes.io/zone" in {constraint["topologyKey"] for constraint in spread}
        # Each is spread for itself: the pod's own name is added to the selector.
        assert all("app.kubernetes.io/name" in constraint["matchLabelKeys"] for constraint in spread)


def test_the_servers_to_try_out_are_open_to_callboard_alone() -> None:
    policies = of_kind("NetworkPolicy", rendered("local"))
    for server in ("mongodb", "nats"):
        (rule,) = policies[server]["spec"]["ingress"]
        (client,) = policies[f"{server}-clients"]["spec"]["egress"]
        assert rule["ports"] == client["ports"]
        assert client["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": server}}}]
        assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "callboard"}}}]
