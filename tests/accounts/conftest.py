"""What the tests of accounts build on: the running service, or the Roblox plugins on a stand-in."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from accounts.main import SERVICE
from accounts.models import LocalPerson
from accounts.people import import_people
from accounts.plugins.roblox import RobloxRanking
from accounts.service import AccountsService
from callboard.databases import migrate_database
from common.app import create_app
from common.group import Group, load_group
from common.mongo import Database, connect
from common.outgoing.providers import Urgency
from common.settings import Settings
from tests.accounts.on_roblox import ranking
from tests.standins.roblox import Roblox, roblox
from tests.support import ROOT, Servers, patience, running, settings, unique_id


@dataclass(frozen=True)
class Park:
    """The running service: its routes, its use cases and its database."""

    client: httpx.AsyncClient
    service: AccountsService
    database: Database
    group: Group

    async def person(self, rank: str = "Guest", **given: Any) -> LocalPerson:
        """A new person, imported as an operator would."""
        user = unique_id()
        person = LocalPerson(**{"id": user, "username": f"Person_{user}", "rank": rank} | given)
        await import_people(self.database, self.group, [person])
        return person

    async def profile(self, **query: Any) -> Any:
        """GET /profile, which must succeed."""
        answer = await self.client.get("/profile", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def connect(self, user: int, place: int = 1001, training: str = "false") -> Any:
        """GET /connect, which must succeed."""
        answer = await self.client.get("/connect", params={"id": user, "place": place, "training": training})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="package", autouse=True)
def _patience() -> Iterator[None]:
    """A machine that is busy is waited for: when it is given up is not looked at here."""
    with patience():
        yield


@pytest.fixture(scope="module")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """The service, for a whole file of tests."""
    own = settings(Settings, servers)
    app = create_app(SERVICE, own)
    client, database = connect(own, "accounts")
    async with running(app, own) as http, client:
        yield Park(http, app.state.service, database, load_group(ROOT / "callboard.toml"))


@pytest.fixture
async def standin() -> AsyncIterator[Roblox]:
    """A Roblox, and a group there, in good order."""
    async with roblox() as one:
        yield one


@pytest.fixture(scope="module")
async def database(servers: Servers) -> AsyncIterator[Database]:
    """The database of accounts."""
    own = settings(Settings, servers)
    await migrate_database(own, "accounts")
    client, database = connect(own, "accounts")
    async with client:
        yield database


@pytest.fixture
def patient() -> Iterator[pytest.MonkeyPatch]:
    """The Roblox plugins wait for a slow machine, which else would make them ask again, or give up; undone by `undo`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accounts.plugins.roblox._READ_SECONDS", dict.fromkeys(Urgency, 60.0))
        patch.setattr("accounts.plugins.roblox._SET_SECONDS", 60.0)
        patch.setattr("accounts.plugins.roblox._LONGEST_CALL_SECONDS", 60.0)
        yield patch


@pytest.fixture
async def plugin(
    database: Database,
    standin: Roblox,
    patient: pytest.MonkeyPatch,  # noqa: ARG001 - in use from the start on
) -> AsyncIterator[RobloxRanking]:
    """The ranking plugin, which has learnt the roles and asked for nothing else."""
    async with ranking(database, standin) as own:
        standin.requests.clear()
        yield own


@pytest.fixture
async def hurried(plugin: RobloxRanking, patient: pytest.MonkeyPatch) -> RobloxRanking:
    """The same, with the limits that it has."""
    patient.undo()
    return plugin
