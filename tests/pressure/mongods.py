"""MongoDB servers of a test's own, where the one of `callboard up` will not do."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pymongo import AsyncMongoClient

from callboard.servers import free_port, listens, mongod
from common.mongo import Document
from tests.support import wait_until


@asynccontextmanager
async def three_members() -> AsyncIterator[tuple[str, dict[int, subprocess.Popen[bytes]]]]:
    """A replica set of three, which elects within a second or two: its URL, and its processes by port."""
    name = "three"
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="callboard-members-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        binary = mongod(folder).command[0]
        ports = [free_port() for _ in range(3)]
        processes: dict[int, subprocess.Popen[bytes]] = {}
        for port in ports:
            data = folder / str(port)
            data.mkdir()
            command = [binary, "--replSet", name, "--port", str(port), "--dbpath", str(data)]
            command += ["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"]
            with (folder / f"{port}.log").open("wb") as log:
                processes[port] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            stack.push_async_callback(asyncio.to_thread, processes[port].wait, 30)
            stack.callback(processes[port].kill)
        for port in ports:
            await wait_until(lambda port=port: listens(port), seconds=60)
        members = [{"_id": number, "host": f"127.0.0.1:{port}"} for number, port in enumerate(ports)]
        config = {"_id": name, "members": members, "settings": {"electionTimeoutMillis": 1000}}
        one: AsyncMongoClient[Document] = AsyncMongoClient("127.0.0.1", ports[0], directConnection=True)
        async with one:
            await one.admin.command("replSetInitiate", config)

            async def has_elected() -> bool:
                return bool((await one.admin.command("hello")).get("primary"))

            await wait_until(has_elected, seconds=60)
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield f"mongodb://{addresses}/?replicaSet={name}", processes
