"""MongoDB and NATS in containers, for tests that need nothing else."""

import os
import secrets
from contextlib import ExitStack
from typing import Any

from pymongo import AsyncMongoClient
from testcontainers.core.container import DockerContainer

from callboard.servers import REPLICA_SET, free_port, listens
from tests.support import Servers, wait_until

MONGO_IMAGE = os.environ.get("MONGO_IMAGE", "mongo:8.0")
NATS_IMAGE = os.environ.get("NATS_IMAGE", "nats:2.12-alpine")


async def mongo_and_nats(stack: ExitStack) -> Servers:
    """Start them empty, listening on ports of this machine alone; the stack stops them."""
    mongo_port, nats_port = free_port(), free_port()
    start = stack.enter_context
    # The same port inside, so that the address in the replica set leads there from both sides.
    arguments = f"--replSet {REPLICA_SET} --bind_ip_all --port {mongo_port}"
    start(
        _container(MONGO_IMAGE, f"{arguments} --setParameter transactionLifetimeLimitSeconds=5", mongo_port)
    )
    start(_container(NATS_IMAGE, f"--jetstream --port {nats_port}", nats_port))
    await wait_until(lambda: listens(mongo_port) and listens(nats_port), 60)
    address = f"127.0.0.1:{mongo_port}"
    async with AsyncMongoClient[dict[str, Any]](address, directConnection=True) as client:
        members = [{"_id": 0, "host": address}]
        await client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})

        async def is_primary() -> bool:
            return bool((await client.admin.command("hello"))["isWritablePrimary"])

        await wait_until(is_primary, 30)
    return Servers(
        f"mongodb://{address}/?replicaSet={REPLICA_SET}",
        f"nats://127.0.0.1:{nats_port}",
        secrets.token_urlsafe(32),
    )


def _container(image: str, arguments: str, port: int) -> DockerContainer:
    container = DockerContainer(image).with_command(arguments)
    # Not `with_bind_ports`, which opens them to the network.
    container.ports[str(port)] = ("127.0.0.1", port)  # type: ignore[assignment] # the engine's client knows it
    return container
