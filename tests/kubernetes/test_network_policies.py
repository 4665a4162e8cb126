"""The network policies allow every edge that the code uses, at both ends, and no other."""

import re
from collections.abc import Iterator
from itertools import product

from gateway.routes import load_routes
from tests.architecture.repository import ROOT, SERVICES, source
from tests.architecture.test_documentation import settings_of
from tests.kubernetes.manifests import Object, objects, workloads

POLICIES = objects("components/network-policies")
WORKLOADS = workloads()
LABELS = {name: one.pod["metadata"]["labels"] for name, one in WORKLOADS.items()}

Edge = tuple[str, str]


def calls() -> set[Edge]:
    """Who calls whom: the gateway by its routes, a service by the settings that say where others are."""
    peers = {
        (service, field.removesuffix("_url"))
        for service in SERVICES
        for field in settings_of(service).model_fields
        if field.endswith("_url") and field.removesuffix("_url") in SERVICES
    }
    return peers | {("gateway", route.service) for route in load_routes().all}


def matches(selector: Object, labels: Object) -> bool:
    """Whether a label selector selects a pod."""
    wanted = selector.get("matchLabels", {}).items()
    listed = selector.get("matchExpressions", ())
    assert all(expression["operator"] == "In" for expression in listed)
    return all(labels.get(key) == value for key, value in wanted) and all(
        labels.get(expression["key"]) in expression["values"] for expression in listed
    )


def rules(direction: str, name: str) -> Iterator[tuple[list[Object], list[Object]]]:
    """The other ends, and the ports, of each rule that is for these pods."""
    for policy in POLICIES:
        spec = policy["spec"]
        if direction in spec["policyTypes"] and matches(spec["podSelector"], LABELS[name]):
            for rule in spec.get(direction.lower(), ()):
                yield rule["to" if direction == "Egress" else "from"], rule["ports"]


def allowed(direction: str, ours: str, theirs: str) -> bool:
    """Whether pods of `ours` may call those of `theirs`, or be called by them."""
    return any(
        "podSelector" in end
        and "namespaceSelector" not in end
        and matches(end["podSelector"], LABELS[theirs])
        for ends, _ in rules(direction, ours)
        for end in ends
    )


def namespaces(direction: str, name: str) -> set[tuple[str, int]]:
    """The other namespaces, and at which port."""
    return {
        (end["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for ends, ports in rules(direction, name)
        for end in ends
        for port in ports
        if "namespaceSelector" in end
    }


def uses(package: str, text: str) -> bool:
    """Whether the code of a package has this text."""
    folder = ROOT / "gateway/src/gateway" if package == "gateway" else source(package)
    return any(text in path.read_text("utf-8") for path in folder.rglob("*.py"))


def test_all_that_is_not_listed_is_refused_both_ways() -> None:
    assert [
        policy["metadata"]["name"]
        for policy in POLICIES
        if policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ] == ["nothing"]


def test_each_call_between_services_is_allowed_by_its_caller_and_by_the_one_called() -> None:
    pairs = [pair for pair in product(LABELS, LABELS) if pair[0] != pair[1]]
    assert {pair for pair in pairs if allowed("Egress", *pair)} == calls()
    assert {pair for pair in pairs if allowed("Ingress", *reversed(pair))} == calls()


def test_services_are_called_at_the_port_that_they_listen_on() -> None:
    for name in LABELS:
        for direction in ("Egress", "Ingress"):
            for ends, ports in rules(direction, name):
                if any("podSelector" in end and "namespaceSelector" not in end for end in ends):
                    assert ports == [{"port": 8000}]


def test_the_servers_are_reached_by_those_who_use_them() -> None:
    for name in LABELS:
        servers = namespaces("Egress", name) - {("kube-system", 53)}
        # Every service has the chassis, and with it a connection to NATS; the gateway has neither.
        uses_nats = name in (*SERVICES, "ops", "migrate")
        assert servers == {("mongodb", 27017)} | ({("nats", 4222)} if uses_nats else set()), name
    assert not uses("gateway", "common.bus")


def test_names_are_looked_up_by_all() -> None:
    for name in LABELS:
        assert ("kube-system", 53) in namespaces("Egress", name)


def test_the_public_comes_to_the_gateway_alone_and_prometheus_to_every_process() -> None:
    for name in LABELS:
        ports = WORKLOADS[name].ports
        expected = {("monitoring", ports.get("metrics", ports.get("http")))} if ports else set()
        if name == "gateway":
            expected |= {("ingress-nginx", ports["http"])}
        assert namespaces("Ingress", name) == expected, name


def outside(name: str) -> list[Object]:
    """The blocks of public addresses that these pods may call."""
    return [
        end["ipBlock"]
        for ends, _ in rules("Egress", name)
        for end in ends
        if "ipBlock" in end and end["ipBlock"]["cidr"] in ("0.0.0.0/0", "::/0")
    ]


def test_only_those_with_plugins_that_call_other_companies_reach_the_internet() -> None:
    callers = {service for service in SERVICES if uses(service, "Provider(")}
    assert {name for name in LABELS if outside(name)} == callers | {"ops"}  # `callboard doctor` asks them all
    for name in LABELS:
        for block in outside(name):
            assert block["except"], "what is private stays closed"


def test_the_page_says_who_calls_whom() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| ([a-z]+) \| [a-z, ]+ \| ([A-Za-z0-9, ()]+) \|$", text, re.MULTILINE))
    for name in LABELS:
        said = set(rows[name].split(", "))
        expected = {called for caller, called in calls() if caller == name} | {"MongoDB"}
        expected |= {"NATS"} if ("nats", 4222) in namespaces("Egress", name) else set()
        expected |= {"the internet (443)"} if outside(name) else set()
        assert said == expected, name
