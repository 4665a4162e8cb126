"""What a caller sends is a value: through the gateway and the real services, none of it becomes part of a query."""

import copy
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pymongo.monitoring import CommandStartedEvent

from accounts.main import SERVICE as ACCOUNTS
from accounts.models import LocalPerson
from accounts.people import import_people
from applications.main import SERVICE as APPLICATIONS
from applications.settings import ApplicationsSettings
from certifications.main import SERVICE as CERTIFICATIONS
from certifications.settings import CertificationsSettings
from common import mongo
from common.app import create_app
from common.group import load_group
from common.outgoing.local import Apps
from common.settings import Settings
from gateway.main import create as create_gateway
from gateway.settings import GatewaySettings
from shifts.main import SERVICE as SHIFTS
from shifts.settings import ShiftsSettings
from tests.gateway.builders import changed_config, make_key
from tests.support import Servers, patience, running, settings, unique_id
from tests.support.plans import Sent

MARK = "canary"
"""Stands in every name that is tried; no query of ours has it."""

HOSTILE = (
    "{name}[$%s]=1",
    "{name}[$%s]={value}",
    "{name}[]={value}&{name}[$%s]=",
    "{name}[%s][$gt]=",
    "{name}.$%s={value}",
    "{name}.%s={value}",
    "{name}=%%7B%%22%%24%s%%22%%3A%%22%%22%%7D",
    '{name}={{"$%s":""}}',
    "{name}[%%24%s]={value}",
    "${name}%s={value}",
    "$where=%s&{name}={value}",
    "{name}={value}&$%s=1",
    "{name}=$%s",
    "{name}={value}%%00$%s",
    "{name}=%s*&{name}[$regex]=.*",
)


class Everything(Sent):
    """Every command that was sent."""

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append((event.command_name, copy.deepcopy(dict(event.command))))


@pytest.fixture(scope="module")
def sent() -> Everything:
    """What reached MongoDB."""
    return Everything()


@pytest.fixture(scope="module")
async def client(
    servers: Servers, sent: Everything, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """Calls the gateway in front of the real services, all in this process."""
    change = {'per_key = "60000/min"': 'per_key = "900000/min"'}
    given: dict[str, Any] = {"config": changed_config(tmp_path_factory.mktemp("operators"), change)}
    apps: Apps = {}
    url = {"public_url": "http://park.example"}
    with patience():  # on a busy machine, too, the answer is not 503
        accounts, certifications = (
            settings(Settings, servers, **given),
            settings(CertificationsSettings, servers),
        )
        applications, shifts = (
            settings(ApplicationsSettings, servers, **url),
            settings(ShiftsSettings, servers),
        )
        gateway = settings(GatewaySettings, servers, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mongo, "_Client", partial(mongo._Client, event_listeners=[sent]))
        async with AsyncExitStack() as stack:
            for app, own in (
                (create_app(ACCOUNTS, accounts, apps), accounts),
                (create_app(CERTIFICATIONS, certifications, apps), certifications),
                (create_app(APPLICATIONS, applications, apps), applications),
                (create_app(SHIFTS, shifts, apps), shifts),
            ):
                apps[app.title] = app
                await stack.enter_async_context(running(app, own))
            yield await stack.enter_async_context(running(create_gateway(gateway, apps), gateway))


@pytest.fixture(scope="module")
async def person(servers: Servers) -> LocalPerson:
    """Somebody who may be trained."""
    user = unique_id()
    one = LocalPerson(id=user, username=f"Person_{user}", rank="University Student", discord=unique_id())
    own = settings(Settings, servers)
    connection, database = mongo.connect(own, "accounts")
    async with connection:
        await import_people(database, load_group(own.config), [one])
    return one


@pytest.fixture(scope="module")
async def keys(servers: Servers) -> dict[str, str]:
    """A key of each scope that is needed."""
    return {"roblox": await make_key(servers, "roblox"), "discord": await make_key(servers, "discord")}


def routes(person: LocalPerson) -> Iterator[tuple[str, str, str, dict[str, object], dict[str, Any]]]:
    """Scope, method, path, parameters and body of a request to every route, each of them good."""
    answers = {f"q{number}": "An answer." for number in range(1, 5)}
    shift: dict[str, object] = {
        "id": person.id,
        "place": 1001,
        "duration": 60,
        "training": "false",
        "server": "a",
    }
    change: dict[str, object] = {
        "certification": "tot",
        "username": person.username,
        "moderator": "400000000000000004",
    }
    yield "roblox", "GET", "/connect", {"id": person.id, "place": 1001, "training": "false"}, {}
    yield "discord", "GET", "/profile", {"id": person.id}, {}
    yield "discord", "GET", "/profile", {"username": person.username}, {}
    yield "discord", "GET", "/profile", {"discord": person.discord}, {}
    yield "discord", "POST", "/certification/grant", change, {}
    yield "discord", "POST", "/certification/revoke", change, {}
    yield "discord", "POST", "/application/upload", {"id": person.id}, {"json": answers}
    yield "discord", "POST", "/application/approve", {"id": person.id, "moderator": "400000000000000004"}, {}
    yield "roblox", "POST", "/log", {**shift, "ended_at": 1, "now": 1}, {}
    yield "roblox", "POST", "/log", shift, {}


def names_in(value: object) -> Iterator[str]:
    """Every name in a command, at any depth."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from names_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from names_in(part)


def check(sent: Everything) -> None:
    """No name in any command came from a caller, and no value of theirs is code or a pattern."""
    for _, command in sent.commands:
        names = list(names_in(command))
        assert not [name for name in names if MARK in name], command
        assert not {"$where", "$function", "$accumulator", "$regex", "$text"} & set(names), command


async def test_no_parameter_becomes_part_of_a_query(
    client: httpx.AsyncClient, sent: Everything, person: LocalPerson, keys: dict[str, str]
) -> None:
    seen = set()
    for scope, method, path, params, body in routes(person):
        headers = {"x-api-key": keys[scope], "Roblox-Id": "1001"}
        for name, hostile in itertools.product(params, HOSTILE):
            others = [f"{other}={value}" for other, value in params.items() if other != name]
            query = "&".join([*others, (hostile % MARK).format(name=name, value=params[name])])
            url = httpx.URL("http://test").copy_with(raw_path=f"{path}?{query}".encode())
            response = await client.request(method, url, headers=headers, **body)
            seen.add(response.status_code)
    assert seen == {200, 400, 404}
    check(sent)
    found = {(name, command.get("$db")) for name, command in sent.commands}
    assert {("find", "accounts"), ("insert", "certifications"), ("insert", "applications")} <= found
    assert ("insert", "shifts") in found


async def test_no_part_of_a_body_becomes_part_of_a_query(
    client: httpx.AsyncClient, sent: Everything, person: LocalPerson, keys: dict[str, str]
) -> None:
    good = {f"q{number}": "An answer." for number in range(1, 5)}
    operator = {f"${MARK}": 1}
    form = "application/x-www-form-urlencoded"
    for body, kind, status in (
        ({**good, "q1": operator}, "json", 400),
        ({**good, "q1": [operator]}, "json", 400),
        ({**good, "q1": {"$gt": ""}}, "json", 400),
        ({**good, "q1": 1}, "json", 400),
        ({**good, "q1": True}, "json", 400),
        ({**good, **operator}, "json", 200),
        ({**good, f"q1.${MARK}": 1, "_id": operator, "$set": operator}, "json", 200),
        ({**good, "q1": json.dumps(operator)}, "json", 200),
        ([good, operator], "json", 400),
        ({**good, f"q1[${MARK}]": "x"}, form, 200),
        ({f"q1[${MARK}]": "x", "q2": "x", "q3": "x", "q4": "x"}, form, 400),
    ):
        how: dict[str, Any] = {"json": body} if kind == "json" else {"data": body}
        response = await client.post(
            f"/application/upload?id={person.id}", headers={"x-api-key": keys["discord"]}, **how
        )
        assert response.status_code == status, (body, response.text)
    check(sent)


async def test_no_header_or_path_becomes_part_of_a_query(
    client: httpx.AsyncClient, sent: Everything, person: LocalPerson, keys: dict[str, str]
) -> None:
    operator = json.dumps({f"${MARK}": ""})
    params: dict[str, Any] = {
        "id": person.id,
        "place": 1001,
        "duration": 60,
        "training": "false",
        "server": "b",
    }
    headers = {"x-api-key": keys["roblox"], "Roblox-Id": "1001", "Idempotency-Key": operator}
    response = await client.post("/log", params=params, headers=headers)
    assert response.status_code in (200, 400)
    for key in (operator, f"[${MARK}]", "[object Object]"):
        response = await client.get("/profile", params={"id": 1}, headers={"x-api-key": key})
        assert response.status_code == 401
    for token in (operator, f"${MARK}", MARK):
        response = await client.get(f"/applications/{quote(token, safe='')}")
        assert response.status_code == 404
    check(sent)
