"""The gateway and all services in one process: `python -m callboard.one_process DATA_DIR`.

The gateway calls the services' apps directly, without a socket; the apps are those that run in processes of
their own elsewhere.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from callboard.prepare import prepare
from callboard.services import SERVICES, declared
from common.app import create_app
from common.group import load_group
from common.mongo import shared_client
from common.outgoing.local import Apps
from common.settings import Settings, read_settings
from gateway import main as gateway
from gateway.settings import GatewaySettings


def create(settings: GatewaySettings, data_dir: Path) -> FastAPI:
    """The gateway's app, which prepares the databases and runs the services for as long as it runs itself."""
    apps: Apps = {}
    services = [
        create_app(service, read_settings(service.settings), apps) for service in map(declared, SERVICES)
    ]
    apps.update((service.title, service) for service in services)
    app = gateway.create(settings, apps)
    run_gateway = app.router.lifespan_context

    @asynccontextmanager
    async def run_all(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(shared_client(settings, "callboard"))
            await prepare(read_settings(Settings), data_dir)
            for service in services:
                await stack.enter_async_context(service.router.lifespan_context(service))
            await stack.enter_async_context(run_gateway(app))
            yield

    app.router.lifespan_context = run_all
    return app


if __name__ == "__main__":
    own_settings = read_settings(GatewaySettings)
    load_group(own_settings.config)  # a mistake in it is told before anything waits for MongoDB
    gateway.serve(create(own_settings, Path(sys.argv[1])), own_settings, "callboard")
