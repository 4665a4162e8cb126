"""No query of a request or an event reads a whole collection or sorts in memory: cost does not grow with data."""

import pytest

from accounts.main import SERVICE
from accounts.models import LocalPerson
from accounts.people import import_people
from common.app import create_app
from common.group import load_group
from common.mongo import connect
from common.settings import Settings
from tests.accounts.builders import granted, shift_logged
from tests.support import ROOT, Servers, running, settings, unique_id, wait_until
from tests.support.plans import listen, slow_plans


async def test_every_query_of_accounts_uses_an_index(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = listen(monkeypatch)
    own = settings(Settings, servers)
    app = create_app(SERVICE, own)
    client, database = connect(own, "accounts")
    async with running(app, own) as http, client:
        sent.commands.clear()  # the start may read everybody
        service = app.state.service
        user, discord, stranger = unique_id(), unique_id(), unique_id()
        person = LocalPerson(id=user, username=f"Planned_{user}", rank="Guest", discord=discord)
        await import_people(database, load_group(ROOT / "callboard.toml"), [person])

        shifts = [shift_logged(user, 5), shift_logged(stranger, 5)]
        await service.record_shifts(shifts)
        await service.record_shifts([*shifts, shift_logged(user, 5)])
        await service.record_certifications([granted(user, "tot", 1), granted(user, "tot", 2)])
        assert (await service.set_rank(user, 10)).rankid == 10
        await import_people(database, load_group(ROOT / "callboard.toml"), [person])

        for asked in (user, stranger, unique_id()):
            await http.get("/connect", params={"place": 1001, "id": asked, "training": "false"})
            await http.get("/profile", params={"id": asked})
        for query in (f"username={person.username}", "username=Nobody", f"discord={discord}"):
            await http.get(f"/profile?{query}")
            await http.get(f"/internal/member?{query}")

        async def is_all_published() -> bool:
            return await database["outbox"].find_one({"sent": False}) is None

        await wait_until(is_all_published)
        assert sent.targets >= {
            ("find", "accounts"),
            ("update", "accounts"),
            ("find", "people"),
            ("update", "people"),
            ("find", "ledger"),
            ("find", "outbox"),
            ("update", "outbox"),
        }
        assert await slow_plans(database, sent) == []


async def test_a_query_without_an_index_is_seen(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = listen(monkeypatch)
    client, database = connect(settings(Settings, servers), "accounts")
    async with client:
        await database["accounts"].find_one({"points": 7}, sort=[("points", -1)])
        await database["accounts"].update_one({"points": 7}, {"$set": {"points": 8}})
        assert {one.split(":")[0] for one in await slow_plans(database, sent)} == {
            "reads the whole collection",
            "sorts in memory",
        }
