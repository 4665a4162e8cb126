"""What `callboard up` starts, in stages, and what each process is told by its environment."""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from callboard.files import private_dir, write_private
from callboard.servers import free_port, mongod, nats_server
from callboard.services import SERVICES
from callboard.supervisor import Component
from callboard.system import SECRETS

_SERVERS, _SERVICES, _GATEWAY = range(3)  # ranks: those of a higher one are stopped first

Stage = list[Component]
"""Components that start together; the next stage starts when all of them are ready."""


@dataclass(frozen=True)
class Options:
    """What `callboard up` was asked for; `replicas` by service."""

    data_dir: Path
    config: Path
    host: str
    port: int
    processes: bool = False
    replicas: Mapping[str, int] = field(default_factory=dict)
    trusted_proxies: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    mongo_url: str | None = None
    nats_url: str | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared only
        return f"{'https' if self.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"


def plan(options: Options, data_dir: Path) -> list[Stage]:
    """All components; their files and secrets are written into the data folder. Raises CommandError."""
    servers, env = plan_servers(options, data_dir)
    return (
        _processes(options, data_dir, servers, env)
        if options.processes
        else _one_process(options, data_dir, servers, env)
    )


def plan_servers(options: Options, data_dir: Path) -> tuple[Stage, dict[str, str]]:
    """MongoDB and NATS, but for those that are given, and the environment of all that uses them.

    Their files and secrets are written into the data folder. Raises CommandError.
    """
    servers, urls = [], {"mongo_url": options.mongo_url, "nats_url": options.nats_url}
    for name, set_up in (("mongo_url", mongod), ("nats_url", nats_server)):
        if urls[name] is None:
            server = set_up(data_dir)
            urls[name] = server.url
            # They need no setting of ours, and a plugin's secret may be among those.
            env = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
            servers.append(Component(server.name, server.command, server.port, _SERVERS, env))
    env = _environment() | _settings(options, data_dir, {name: url for name, url in urls.items() if url})
    return servers, env


def _one_process(options: Options, data_dir: Path, servers: Stage, env: dict[str, str]) -> list[Stage]:
    gateway = Component(
        "callboard",
        _python("callboard.one_process", str(data_dir)),
        options.port,
        _GATEWAY,
        env | _gateway_settings(options),
        health_url=f"{options.url}/readyz",
    )
    return [[*servers, gateway]]


def _processes(options: Options, data_dir: Path, servers: Stage, env: dict[str, str]) -> list[Stage]:
    prepare = Component(
        "prepare", _python("callboard.prepare", str(data_dir)), None, _SERVICES, env, has_an_end=True
    )
    ports = {name: [free_port() for _ in range(options.replicas.get(name, 1))] for name in SERVICES}
    urls = {name: [f"http://127.0.0.1:{port}" for port in ports[name]] for name in SERVICES}
    env = env | {f"CALLBOARD_{name.upper()}_URL": ",".join(urls[name]) for name in SERVICES}
    services = [
        Component(
            name if len(ports[name]) == 1 else f"{name}-{number}",
            _python(f"{name}.main"),
            port,
            _SERVICES,
            env | {"CALLBOARD_HOST": "127.0.0.1", "CALLBOARD_PORT": str(port)},
            health_url=f"http://127.0.0.1:{port}/readyz",
        )
        for name in SERVICES
        for number, port in enumerate(ports[name], 1)
    ]
    gateway = Component(
        "gateway",
        _python("gateway.main"),
        options.port,
        _GATEWAY,
        env | _gateway_settings(options) | {"CALLBOARD_UPSTREAMS": json.dumps(urls)},
        health_url=f"{options.url}/readyz",
    )
    return [[*servers, prepare], [*services, gateway]]


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", module, *arguments)


def _environment() -> dict[str, str]:
    """Our own environment without its secrets, which the components read from files."""
    hidden = {f"CALLBOARD_{name}".upper() for name in SECRETS}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _settings(options: Options, data_dir: Path, urls: Mapping[str, str]) -> dict[str, str]:
    folder = private_dir(data_dir / "secrets")
    token = folder / "callboard_internal_token"
    if given := os.environ.get("CALLBOARD_INTERNAL_TOKEN"):
        write_private(token, given)
    elif not token.exists():
        write_private(token, secrets.token_urlsafe(32))
    for name, url in urls.items():
        write_private(folder / f"callboard_{name}", url)
    public_url = os.environ.get("CALLBOARD_PUBLIC_URL", options.url)
    # The other commands find the configuration of the running system here.
    write_private(folder / "callboard_config", str(options.config.resolve()))
    write_private(folder / "callboard_public_url", public_url)
    return {
        "CALLBOARD_SECRETS_DIR": str(folder),
        "CALLBOARD_CONFIG": str(options.config),
        "CALLBOARD_PUBLIC_URL": public_url,
    }


def _gateway_settings(options: Options) -> dict[str, str]:
    given = {
        "CALLBOARD_HOST": options.host,
        "CALLBOARD_PORT": str(options.port),
        "CALLBOARD_TRUSTED_PROXIES": json.dumps(options.trusted_proxies) if options.trusted_proxies else "",
        "CALLBOARD_TLS_CERT": str(options.tls_cert or ""),
        "CALLBOARD_TLS_KEY": str(options.tls_key or ""),
    }
    return {name: value for name, value in given.items() if value}
