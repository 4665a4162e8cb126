"""No query of a request or an event reads a whole collection or sorts in memory: cost does not grow with data."""

import time

import pytest

from certifications import main as certifications
from certifications.settings import CertificationsSettings
from common.app import create_app
from common.events import CertificationGranted
from common.mongo import Database, connect
from shifts.main import SERVICE
from shifts.settings import ShiftsSettings
from tests.shifts.builders import bare, log, shift
from tests.support import Servers, running, settings, unique_id, wait_until
from tests.support.plans import Sent, listen, slow_plans


async def test_every_query_of_shifts_uses_an_index(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = settings(CertificationsSettings, servers)
    owner = create_app(certifications.SERVICE, neighbour)
    own = settings(ShiftsSettings, servers)
    async with running(owner, neighbour):
        sent = listen(monkeypatch)
        app = create_app(SERVICE, own, {"certifications": owner})
        client, database = connect(own, "shifts")
        async with running(app, own) as http, client:
            worker = unique_id()
            grant = CertificationGranted(
                user=worker, username="A", certification="tot", version=1, moderator="M"
            )
            await app.state.service.record_certifications([grant])
            for parameters, key in (
                (shift(), f"planned-{unique_id()}"),
                (shift(), None),
                (shift(ended_at=int(time.time()) + 3600), None),
                (bare(), None),
                (shift(id=worker, place=1002), f"planned-{unique_id()}"),
            ):
                for _ in range(2):  # the second is a repeat
                    assert (await log(http, parameters, key)).status_code == 200
            assert (await log(http, shift(place=1002))).status_code == 400

            async def is_all_published() -> bool:
                return await database["outbox"].find_one({"sent": False}) is None

            await wait_until(is_all_published)
            assert sent.targets >= {
                ("aggregate", 1),
                ("update", "timesheets"),
                ("find", "members"),
                ("update", "members"),
                ("find", "outbox"),
                ("update", "outbox"),
            }
            assert await slow_plans(database, sent) == []
            assert await indexes_of_look_ups(database, sent) == {
                "near": {"by_user_and_end", "by_user_and_given_end"},
                "used": {"one_per_idempotency_key"},
                "sheets": {"_id_"},
            }


async def indexes_of_look_ups(database: Database, sent: Sent) -> dict[str, set[str]]:
    """What each look-up of an aggregation reads, by its name; the plan itself does not show it."""
    used: dict[str, set[str]] = {}
    for command in (command for command in sent.shapes() if "aggregate" in command):
        explained = await database.command({"explain": command, "verbosity": "executionStats"})
        for stage in explained["stages"]:
            if "$lookup" in stage:
                indexes = ["every document"] if stage["collectionScans"] else stage["indexesUsed"]
                used.setdefault(stage["$lookup"]["as"], set()).update(indexes)
    return used
