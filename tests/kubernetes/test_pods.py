"""Every pod runs on what its manifest gives it: each probe answers, and each user may do what it must, and no more."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import nats
import pytest
from nats.errors import Error as NatsError
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from common.mongo import Document
from tests.kubernetes.cluster import SERVED, Cluster, cluster
from tests.support import wait_until

CAST = 3
"""In the configuration of prod nobody is known; who this is says `people import`."""


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster() as found:
        yield found


@pytest.mark.parametrize("name", SERVED)
async def test_every_probe_and_the_page_of_metrics_answer(running: Cluster, name: str) -> None:
    pod = running.pods[name]
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        for probe in pod.workload.probes.values():
            answer = await client.get(pod.url(probe["port"]) + probe["path"])
            assert answer.status_code == 200, answer.text
        page = "metrics" if name == "gateway" else "http"
        answer = await client.get(pod.url(page) + "/metrics")
        assert answer.status_code == 200
        assert "callboard_" in answer.text
        if name == "gateway":
            answer = await client.get(pod.url() + "/metrics")
            assert answer.status_code == 404, "never on the public port"


async def test_a_shift_and_a_certification_go_all_the_way_with_the_users_that_each_pod_has(
    running: Cluster,
) -> None:
    people = running.folder / "people.csv"
    people.write_text(f"id,username,rank,discord\n{CAST},ParkCast,Cast Member,\n")
    await running.ops("people", "import", str(people))
    keys = {
        scope: json.loads(await running.ops("keys", "create", scope, "--scope", scope, "--json"))["key"]
        for scope in ("roblox", "discord")
    }
    async with httpx.AsyncClient(
        base_url=running.pods["gateway"].url(), trust_env=False, timeout=10
    ) as client:
        shift = {"id": str(CAST), "place": "1001", "duration": "600", "training": "false", "server": "one"}
        answer = await client.post(
            "/log",
            params=shift,
            headers={"x-api-key": keys["roblox"], "Roblox-Id": "1001", "Idempotency-Key": "pods"},
        )
        assert answer.json() == {"status": "success"}
        answer = await client.post(
            "/certification/grant",
            params={"certification": "tot", "username": "ParkCast", "moderator": "400000000000000004"},
            headers={"x-api-key": keys["discord"]},
        )
        assert answer.json()["status"] == "success"

        async def is_known() -> bool:
            profile = await client.get(
                "/profile", params={"id": CAST}, headers={"x-api-key": keys["discord"]}
            )
            known = profile.json()
            return bool(known.get("points") == 10 and known.get("certifications") == ["tot"])

        await wait_until(is_known, 20)
    assert "all add up" in await running.ops("verify")
    assert "Violation" not in (running.folder / "nats.log").read_text("utf-8"), "a user may too little"


async def test_a_pod_reads_no_other_service_s_database(running: Cluster) -> None:
    client: AsyncMongoClient[Document] = AsyncMongoClient(running.mongo_urls["accounts"])
    async with client:
        await client["accounts"]["accounts"].find_one({})
        with pytest.raises(OperationFailure):
            await client["shifts"]["shifts"].find_one({})


async def test_a_pod_publishes_no_other_service_s_facts(running: Cluster) -> None:
    refused = asyncio.Event()

    async def note(error: Exception) -> None:
        if isinstance(error, NatsError) and "ermissions" in str(error):
            refused.set()

    client = await nats.connect(running.nats_urls["applications"], error_cb=note)
    try:
        await client.publish("callboard.shifts.shift_logged.v1", b"{}")
        await asyncio.wait_for(refused.wait(), 10)
    finally:
        await client.close()


async def test_every_pod_is_gone_within_its_time(running: Cluster) -> None:
    """Last in this file: it stops them."""
    began = time.monotonic()
    for pod in running.pods.values():
        assert pod.process
        pod.process.terminate()
    for pod in running.pods.values():
        assert pod.process
        given = pod.workload.pod["spec"]["terminationGracePeriodSeconds"]
        slept = pod.workload.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        await asyncio.to_thread(pod.process.wait, given - slept - (time.monotonic() - began))
        assert "Finished server process" in pod.log.read_text("utf-8")
