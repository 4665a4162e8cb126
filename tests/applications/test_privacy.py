"""What an applicant wrote, and where it can be read, is nobody else's business."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from applications.settings import ApplicationsSettings
from callboard.databases import migrate_database
from callboard.servers import free_port
from common.outgoing.headers import TOKEN_HEADER
from tests.applications.builders import PUBLIC_URL, Park, four_answers, park
from tests.support import ROOT, Servers, settings, unique_id, wait_until

CANARY = "canary-7f3a"


@asynccontextmanager
async def process(servers: Servers, log: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The service as a process of its own, which logs all that it can."""
    await migrate_database(settings(ApplicationsSettings, servers, public_url=PUBLIC_URL), "applications")
    port = free_port()
    environment = {
        "CALLBOARD_MONGO_URL": servers.mongo_url,
        "CALLBOARD_NATS_URL": servers.nats_url,
        "CALLBOARD_INTERNAL_TOKEN": servers.internal_token,
        "CALLBOARD_CONFIG": str(ROOT / "callboard.toml"),
        "CALLBOARD_PUBLIC_URL": PUBLIC_URL,
        "CALLBOARD_ACCOUNTS_URL": "http://127.0.0.1:9",
        "CALLBOARD_PORT": str(port),
        "CALLBOARD_LOG_LEVEL": "DEBUG",
    }
    with log.open("wb") as out:
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "applications.main", env=os.environ | environment, stdout=out, stderr=out
        )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={TOKEN_HEADER: servers.internal_token}, timeout=30
        ) as client:

            async def is_ready() -> bool:
                assert running.returncode is None
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await wait_until(is_ready, seconds=60)
            yield client
    finally:
        running.terminate()
        await running.wait()


async def test_neither_answers_nor_tokens_are_logged(servers: Servers, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with process(servers, log) as client:
        client.params = {"id": str(unique_id()), "moderator": "4"}
        answers = four_answers(q1=CANARY)
        taken = await client.post("/application/upload", json=answers)
        token = taken.json()["url"].rpartition("/")[2]
        assert CANARY in (await client.get(f"/applications/{token}")).text
        for wrong in (
            {"data": answers | {"q2": "x" * 5000}},
            {"json": answers | {"q2": [CANARY]}},
            {"content": CANARY, "headers": {"content-type": "application/json"}},
            {"files": {"q1": (None, CANARY)}},
        ):
            refused = await client.post("/application/upload", **wrong)
            assert refused.status_code == 400
            assert CANARY not in refused.text
        assert (await client.get(f"/applications/{token}x")).status_code == 404
        assert (await client.post("/application/approve")).status_code == 502
        metrics = (await client.get("/metrics")).text
    written = log.read_text()
    assert "Application startup complete" in written
    for text in (written, metrics):
        assert CANARY not in text
        assert token not in text
    assert 'route="/applications/{token}"' in metrics


async def test_what_mongodb_notes_of_its_operations_has_no_token_in_it(servers: Servers) -> None:
    """What is slow goes into its log as it goes into the profile, where here all goes."""
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.database.command("profile", 2)
        try:
            url = (await here.upload(user, q1=CANARY)).json()["url"]
            assert CANARY in (await here.read(url)).text
            assert (await here.read(f"{url}x")).status_code == 404
            assert (await here.approve(user)).status_code == 200
        finally:
            await here.database.command("profile", 0)
        noted = [str(one) async for one in here.database["system.profile"].find()]
        await here.database.drop_collection("system.profile")
    token = url.rpartition("/")[2]
    assert [one for one in noted if token[:8] in one and "'find': 'documents'" in one]
    assert not [one for one in noted if token[-16:] in one or CANARY in one]


async def test_no_event_holds_an_answer(servers: Servers) -> None:
    user = unique_id()
    async with park(servers) as here:
        here.accounts.knows(user)
        await here.upload(user, q1=CANARY, q4=CANARY)
        await here.approve(user)
        events = [
            *await here.events(user, "application_submitted"),
            *await here.events(user, "application_approved"),
        ]
    assert len(events) == 2
    assert not [payload for payload in events if CANARY.encode() in payload]


async def test_what_an_applicant_wrote_is_not_in_the_record(shared_park: Park) -> None:
    user = unique_id()
    await shared_park.upload(user, q1=CANARY)
    (record,) = await shared_park.records(user)
    assert CANARY not in str(record)
