"""After all the others, for each form: what their many requests left behind. (That `up` stops well, and leaves
no process, is checked when the park is stopped.)"""

import json

import psutil
import pytest

from tests.contracts.park import SUCCESS, Park
from tests.support import wait_until


async def test_every_point_can_be_accounted_for(park: Park) -> None:
    person = park.person()
    assert (await park.log(person.id, 600)).text == SUCCESS
    await park.callboard("verify")
    report = json.loads(await park.callboard("verify", "--json"))
    assert report


async def test_no_key_no_token_and_no_answer_is_in_a_log(park: Park) -> None:
    secret = f"A secret answer {park.person().id}"
    response = await park.upload(park.person().id, json=dict.fromkeys(("q1", "q2", "q3", "q4"), secret))
    token = response.json()["url"].rpartition("/")[2]
    assert secret in (await park.call("GET", f"/applications/{token}")).text
    for key in park.keys.values():
        await park.call("GET", "/profile", {"id": 1, "key": key})
        await park.call("GET", "/no/such/page", {"key": key})
        await park.call("GET", "/connect", {"key": key})
    park.secrets |= {secret, token}
    logs = park.logs()
    assert any(text for text in logs.values())
    found = [
        (path.name, value[:12]) for path, text in logs.items() for value in park.secrets if value in text
    ]
    assert not found


@pytest.mark.parametrize("place", ["query", "header"])
async def test_the_log_line_of_a_request_shows_the_name_of_its_key(park: Park, place: str) -> None:
    key = park.keys["discord"]
    how = {"params": {"id": 1, "key": key}} if place == "query" else {"params": {"id": 1}, "key": key}
    request = (await park.call("GET", "/profile", **how)).headers["x-request-id"]

    def lines() -> list[str]:
        whole = (text.rpartition("\n")[0] for text in park.logs().values())  # the last may be half written
        return [line for text in whole for line in text.splitlines() if request in line]

    await wait_until(lambda: bool(lines()))
    for line in lines():
        assert json.loads(line)["key"] == "discord"


async def test_hardly_a_request_had_to_be_made_again(park: Park) -> None:
    assert park.repeated < 25


async def test_only_the_owner_can_look_into_the_data_folder(park: Park) -> None:
    _skip_in_containers(park)
    assert park.data_dir.stat().st_mode & 0o077 == 0
    assert (park.data_dir / "keys.env").stat().st_mode & 0o777 == 0o600


async def test_no_secret_is_on_a_command_line(park: Park) -> None:
    _skip_in_containers(park)
    listed = park.components()
    names = {one["name"] for one in listed}
    assert {"mongod", "nats-server"} <= names
    if park.form == "processes":
        assert {"gateway", "accounts", "certifications", "applications", "shifts"} <= names
    files = [path for path in (park.data_dir / "secrets").iterdir() if not path.name.endswith("_config")]
    secrets = park.secrets | {path.read_text("utf-8").strip() for path in files}
    for one in listed:
        words = " ".join(psutil.Process(one["pid"]).cmdline())
        assert not [value for value in secrets if value in words]


def _skip_in_containers(park: Park) -> None:
    if park.form == "containers":
        pytest.skip("there is no data folder; tests/containers looks for secrets instead")
