"""Who gets which secret, and what it opens."""

import json

import pytest

from callboard.services import DATABASES, SERVICES
from tests.containers.engine import Project, logs, run
from tests.containers.park import ContainerPark
from tests.contracts.people import CAST
from tests.support import wait_until

pytestmark = pytest.mark.containers

READ_ALL = "import pathlib; print(pathlib.Path('/secrets/passwords.json').read_text())"

TRY_MONGODB = """
import pathlib, pymongo, pymongo.errors, sys
url = pathlib.Path("/run/secrets/callboard/callboard_mongo_url").read_text()
client = pymongo.MongoClient(url)
for line in sys.argv[1:]:
    try:
        eval(line, {"client": client})
        print("done")
    except pymongo.errors.OperationFailure as error:
        print(error.code)
"""

TRY_NATS = """
import asyncio, nats, pathlib, sys
async def main():
    refused = []
    async def note(error):
        refused.append(str(error).lower())
    url = pathlib.Path("/run/secrets/callboard/callboard_nats_url").read_text()
    client = await nats.connect(url, error_cb=note)
    for subject in sys.argv[1:]:
        refused.clear()
        await client.publish(subject, b"{}")
        await client.flush()
        await asyncio.sleep(0.2)
        print("refused" if any("permissions violation" in one for one in refused) else "done")
asyncio.run(main())
"""

TRY_TO_ENTER = """
import pymongo, pymongo.errors, sys
user, password = sys.argv[1:]
try:
    url = f"mongodb://{user}:{password}@mongo:27017/?replicaSet=callboard&authSource={user}"
    pymongo.MongoClient(url)[user].outbox.find_one()
    print("done")
except pymongo.errors.OperationFailure as error:
    print(error.code)
"""

UNAUTHORIZED = "13"
NOT_AUTHENTICATED = "18"


async def passwords(project: Project) -> dict[str, dict[str, str]]:
    volume = f"{project.name}_secrets-admin:/secrets:ro"
    found: dict[str, dict[str, str]] = json.loads(
        await run(
            "docker", "run", "--rm", "--network=none", "-v", volume, "callboard-ops", "python", "-c", READ_ALL
        )
    )
    return found


async def in_service(project: Project, service: str, script: str, *arguments: str) -> list[str]:
    container = project.container(service)
    return (await run("docker", "exec", container, "python", "-c", script, *arguments)).split()


async def test_no_secret_is_in_an_image_a_container_s_settings_or_a_log(project: Project) -> None:
    found = {value for kind in (await passwords(project)).values() for value in kind.values()}
    assert len(found) > 15
    shown = [await run("docker", "inspect", *project.containers())]
    for service in (*DATABASES, "ops"):
        shown.append(await run("docker", "inspect", f"callboard-{service}"))
        shown.append(await run("docker", "history", "--no-trunc", f"callboard-{service}"))
    shown += [logs(container) for container in project.containers()]
    assert not [value[:6] for value in found for text in shown if value in text]


@pytest.mark.parametrize("service", DATABASES)
async def test_a_service_can_read_its_own_secrets_and_nobody_else_s(project: Project, service: str) -> None:
    known = await passwords(project)
    others = {value for kind in ("mongo", "nats") for name, value in known[kind].items() if name != service}
    script = "import pathlib; print(*(f.read_text() for f in pathlib.Path('/run/secrets').rglob('*') if f.is_file()))"
    read = " ".join(await in_service(project, service, script))
    assert known["mongo"][service] in read
    assert not [value for value in others if value in read]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reaches_no_database_but_its_own(project: Project, service: str) -> None:
    other = "shifts" if service == "accounts" else "accounts"
    assert await in_service(
        project,
        service,
        TRY_MONGODB,
        f"client['{service}'].outbox.find_one()",
        f"client['{other}'].outbox.find_one()",
        f"client['{other}'].outbox.insert_one({{}})",
        "client.gateway['keys'].find_one()",
        "client.admin.command('usersInfo')",
        f"client['{service}'].command('dropDatabase')",
        f"client['{service}'].outbox.drop_index('no such index')",
    ) == ["done", *[UNAUTHORIZED] * 6]


async def test_the_gateway_makes_no_keys_and_changes_no_record_of_who_did(project: Project) -> None:
    assert await in_service(
        project,
        "gateway",
        TRY_MONGODB,
        "client.gateway['keys'].find_one()",
        "client.gateway['keys'].insert_one({})",
        "client.gateway.audit.delete_many({})",
        "client.accounts.accounts.find_one()",
    ) == ["done", *[UNAUTHORIZED] * 3]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_publishes_no_facts_of_another(project: Project, service: str) -> None:
    other = "shifts" if service == "accounts" else "accounts"
    assert await in_service(
        project,
        service,
        TRY_NATS,
        "$JS.API.STREAM.INFO.CALLBOARD",
        f"callboard.{other}.shift_logged.v1",
        "$JS.API.STREAM.DELETE.CALLBOARD",
        f"$JS.API.CONSUMER.MSG.NEXT.CALLBOARD.{other}",
    ) == ["done", *["refused"] * 3]


async def test_renewed_passwords_are_used_by_all_and_the_old_ones_open_nothing(
    project: Project, container_park: ContainerPark
) -> None:
    before = await passwords(project)
    command = ("python", "-m", "callboard.container_secrets", "/secrets", "/data")
    await project.compose("run", "--rm", "-T", "secrets", *command, "admin", exit_code=1)
    await project.compose("run", "--rm", "-T", "secrets", *command, "shifts", "internal_token")
    await project.compose("up", "-d", "--force-recreate")
    await wait_until(project.serves, 60)
    after = await passwords(project)
    assert {
        (kind, name) for kind in after for name in after[kind] if after[kind][name] != before[kind][name]
    } == {
        ("mongo", "shifts"),
        ("nats", "shifts"),
        ("other", "internal_token"),
    }
    old, new = before["mongo"]["shifts"], after["mongo"]["shifts"]
    assert await in_service(project, "shifts", TRY_TO_ENTER, "shifts", old) == [NOT_AUTHENTICATED]
    assert await in_service(project, "shifts", TRY_TO_ENTER, "shifts", new) == ["done"]
    person = container_park.person(CAST)
    assert (await container_park.log(person.id, 600, ago=60)).status_code == 200
    await container_park.has_points(person.id, 10)
