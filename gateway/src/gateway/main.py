"""The gateway: `python -m gateway.main`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from fastapi import FastAPI
from prometheus_client import start_http_server

from common.app import Health, add_health_routes, bare_app
from common.group import load_group
from common.logs import configure_logging
from common.mongo import connect, wait_until_migrated
from common.outgoing.local import Apps
from common.plugins import enter
from common.server import run
from common.settings import read_settings
from common.tracing import make_tracer
from gateway.connections import ClientConnection, allow_open_files
from gateway.docs import Docs, add_docs_routes
from gateway.policies import POLICIES
from gateway.proxy import Door, Proxy
from gateway.repository import COLLECTIONS
from gateway.routes import load_routes
from gateway.settings import GatewaySettings
from gateway.status import Status, add_status_route
from gateway.upstreams import Upstreams

NAME = "gateway"


def create(settings: GatewaySettings, apps: Apps | None = None) -> FastAPI:
    """The gateway; `apps` are the services of this process, if any."""
    routes = load_routes()
    tracer = make_tracer(settings, NAME)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        group = load_group(settings.config)
        async with AsyncExitStack() as stack:
            client, database = connect(settings, NAME)
            stack.push_async_callback(client.close)
            await wait_until_migrated(database, COLLECTIONS, settings.storage)
            policies = list((await enter(stack, POLICIES, group, database, settings)).values())
            upstreams = await stack.enter_async_context(Upstreams(settings, apps or {}))
            stack.enter_context(_metrics_page(settings))
            app.state.proxy = Proxy(
                routes, policies, upstreams, settings.trusted_proxies, tracer, settings.patience
            )
            app.state.docs = Docs(routes, upstreams)
            app.state.status = Status(routes, upstreams)
            app.state.health = Health(database, None, settings.storage.ping_seconds)
            yield

    app = bare_app(NAME, lifespan, Door, openapi_url=None)
    add_health_routes(app)
    add_docs_routes(app)
    add_status_route(app)
    return app


@contextmanager
def _metrics_page(settings: GatewaySettings) -> Iterator[None]:
    if not settings.metrics_port:
        yield
        return
    server, thread = start_http_server(settings.metrics_port, settings.metrics_host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(app: FastAPI, settings: GatewaySettings, name: str) -> None:
    """Serve the public port until SIGTERM or Ctrl-C."""
    configure_logging(name, settings.log_level)
    allow_open_files()
    run(
        app,
        settings,
        name,
        http=ClientConnection,
        drains=False,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
    )


if __name__ == "__main__":
    own_settings = read_settings(GatewaySettings)
    serve(create(own_settings), own_settings, NAME)
