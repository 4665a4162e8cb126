"""One accounts service for each file of tests in this folder."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from accounts.main import create
from accounts.models import LocalPerson
from accounts.service import AccountsService, import_people
from common.group import Group, load_group
from common.mongo import Database, connect
from common.settings import Settings
from tests.support import ROOT, Servers, running, settings, unique_id


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


@pytest.fixture(scope="module")
async def park(servers: Servers) -> AsyncIterator[Park]:
    """The service, for a whole file of tests."""
    own = settings(Settings, servers)
    app = create(own)
    client, database = connect(own, "accounts")
    async with running(app, own) as http, client:
        yield Park(http, app.state.service, database, load_group(ROOT / "callboard.toml"))
