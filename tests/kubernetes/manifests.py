"""What the files in k8s/ say, read as they are: what kustomize makes of them is looked at in test_overlays.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT

K8S = ROOT / "k8s"
OVERLAYS = ("local", "prod")

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    """The objects of one file."""
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def objects(folder: str) -> list[Object]:
    """The objects of all files in a folder of k8s/ that its kustomization lists."""
    (kustomization,) = documents(K8S / folder / "kustomization.yaml")
    return [found for name in kustomization["resources"] for found in documents(K8S / folder / name)]


def of_kind(kind: str, found: list[Object]) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


@dataclass(frozen=True)
class Workload:
    """A Deployment or a Job of the base; `package` is whose settings its process reads."""

    name: str
    pod: Object

    @property
    def container(self) -> Object:
        """The only container."""
        (only,) = self.pod["spec"]["containers"]
        found: Object = only
        return found

    @property
    def package(self) -> str:
        """The service, `gateway` or `ops`: what its image is built of."""
        image: str = self.container["image"]
        return image.removeprefix("callboard-")

    @property
    def env(self) -> dict[str, str]:
        """What the manifest itself gives."""
        return {variable["name"]: variable["value"] for variable in self.container["env"]}

    @property
    def secrets(self) -> Iterator[tuple[str, bool]]:
        """The Secrets that are mounted, and whether each may be missing."""
        for volume in self.pod["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", ()):
                yield source["secret"]["name"], source["secret"].get("optional", False)

    @property
    def ports(self) -> dict[str, int]:
        """The container's ports by name."""
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", ())}

    @property
    def probes(self) -> dict[str, Object]:
        """The `httpGet` of each probe."""
        kinds = ("startupProbe", "livenessProbe", "readinessProbe")
        return {kind: self.container[kind]["httpGet"] for kind in kinds if kind in self.container}


def workloads() -> dict[str, Workload]:
    """All that the base runs, by name."""
    return {
        one["metadata"]["name"]: Workload(one["metadata"]["name"], one["spec"]["template"])
        for one in objects("base")
        if one["kind"] in ("Deployment", "Job")
    }


def overlay(name: str) -> Object:
    """The kustomization of an overlay."""
    (kustomization,) = documents(K8S / "overlays" / name / "kustomization.yaml")
    return kustomization


def generated(name: str, kind: str) -> dict[str, dict[str, str]]:
    """The keys and values of each ConfigMap or Secret that an overlay makes of literals and of env files."""
    found: dict[str, dict[str, str]] = {}
    for one in overlay(name).get(f"{kind}Generator", ()):
        lines = list(one.get("literals", ()))
        for file in one.get("envs", ()):
            lines += (K8S / "overlays" / name / file).read_text("utf-8").splitlines()
        found[one["name"]] = dict(line.split("=", 1) for line in lines)
    return found
