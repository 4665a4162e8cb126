"""Looks whether the configuration fits the real services; it changes nothing, but makes a stream that is missing.

A line that is right and tells how to mend something is a warning.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError, ServiceUnavailableError
from pydantic import SecretStr
from pymongo.errors import PyMongoError

from accounts.plugins.links import KNOW_LINKS_ONLY
from applications.settings import ApplicationsSettings
from callboard.access import data_dir_of, find_settings, open_databases
from callboard.consumers import examine_consumers
from callboard.databases import collections_of
from callboard.errors import CommandError
from callboard.plugins import Plugin, plugin_points, plugins
from common.errors import ConfigurationError, ServiceError
from common.group import Group, load_group
from common.mongo import Database, check_migrated
from common.outbox import OUTBOX
from common.plugins import Examinable, Finding, load
from common.settings import Settings, read_settings
from common.stream import STREAM, differences, ensure_stream, wanted_stream, why_different, why_refused

SECONDS_FOR_A_PLUGIN = 15.0
_SECONDS_FOR_THE_PUBLIC_URL = 10.0
_CLOCK_TOLERANCE_SECONDS = 5.0
_OLDEST_MONGODB = (6, 0)
_OLDEST_MONGODB_WITH_FIXES = (7, 0)
_OLDEST_NATS = (2, 11)
_NEARLY_FULL = 0.9
_MOST_REFUSED_EVENTS = 5
_PORTS_OPEN_TO_ROBLOX = (80, 443)
_PORT_CLOSED_TO_ROBLOX = 1194

Tell = Callable[[Finding], None]


class _Loaded(NamedTuple):
    label: str
    plugin: Any


def verdict(finding: Finding) -> Literal["right", "warning", "wrong"]:
    """What a line comes to."""
    if not finding.is_right:
        return "wrong"
    return "warning" if finding.mend else "right"


async def examine(given: Path | None, tell: Tell) -> None:
    """Tell every line, in an order in which the causes stand before what follows from them.

    `given` is the data folder, as for `access.find_settings`. Where no system is found, what can be told from
    the configuration alone is told.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # what plugins log stands in their lines as well
    system, trouble = _find_system(given)
    settings = system or _nowhere()
    is_named = system is not None
    folder = data_dir_of(given)
    if folder is not None:  # plugins read their secrets where the services of this folder do
        os.environ["CALLBOARD_SECRETS_DIR"] = str(folder.resolve() / "secrets")
    group = _read_group(settings.config, tell)
    if trouble is not None:
        tell(trouble)
    async with AsyncExitStack() as stack:
        try:
            databases = await stack.enter_async_context(open_databases(settings))
        except (PyMongoError, ValueError) as error:  # nothing was asked yet: the URL itself cannot be used
            tell(Finding(False, f"CALLBOARD_MONGO_URL: {_sentence(error)}", "Mend the URL."))
            is_named = False
            databases = await stack.enter_async_context(open_databases(_nowhere()))
        loaded = _load_plugins(group, databases, settings, tell) if group else []
        if is_named:
            async for finding in _examine_mongodb(databases):
                tell(finding)
        if system is not None:
            async for finding in _examine_nats(system):
                tell(finding)
        for one in loaded:
            if isinstance(one.plugin, Examinable):
                for finding in await _examine_plugin(one.plugin):
                    tell(finding._replace(what=f"{one.label}: {finding.what}"))
    if system is not None:
        async for finding in _examine_public_url(system):
            tell(finding)
    if group is not None:
        _warn(group, tell)


# ---------------------------------------------------------------------------------- the configuration


def _find_system(given: Path | None) -> tuple[Settings | None, Finding | None]:
    """The settings of the system to look at, or why there are none."""
    try:
        return find_settings(given), None
    except CommandError as error:
        left_out = "MongoDB, NATS, and whatever needs them, were not looked at"
        return None, Finding(True, f"{left_out}: {_sentence(error)}", "Start Callboard, and run this again.")
    except ConfigurationError as error:
        return None, Finding(False, _sentence(error), "Mend this setting; docs/settings.md has them all.")


def _nowhere() -> Settings:
    """Settings for plugins that are loaded though there is no MongoDB."""
    config = Path(os.environ.get("CALLBOARD_CONFIG", "callboard.toml"))
    return Settings.model_construct(mongo_url=SecretStr("mongodb://127.0.0.1:1"), config=config)


def _read_group(path: Path, tell: Tell) -> Group | None:
    try:
        group = load_group(path)
    except ConfigurationError as error:
        tell(Finding(False, _sentence(error), "Mend this line; docs/configuration.md has every key."))
        return None
    tell(Finding(True, f"{path.resolve()} is valid."))
    return group


def _load_plugins(
    group: Group, databases: Mapping[str, Database], settings: Settings, tell: Tell
) -> list[_Loaded]:
    loaded = []
    for found in plugins(group):
        if not found.is_active:
            continue
        label = f"{found.name} ({found.point.name})"
        try:
            plugin = load(found.point, found.name, group, databases[plugin_points()[found.point]], settings)
        except ConfigurationError as error:
            tell(Finding(False, _sentence(error), _how_to_load(found, str(error))))
        else:
            loaded.append(_Loaded(label, plugin))
    if loaded:
        tell(Finding(True, f"These plugins load: {', '.join(one.label for one in loaded)}."))
    return loaded


def _how_to_load(plugin: Plugin, error: str) -> str:
    if plugin.package is None:
        return "Install its package beside Callboard, or name another in callboard.toml."
    if error.startswith("CALLBOARD_"):
        name = error.partition(":")[0]
        folder = os.environ.get("CALLBOARD_SECRETS_DIR", "$CALLBOARD_SECRETS_DIR")
        return f"Set the variable {name}, or write the secret into {folder}/{name.lower()} (mode 0600)."
    return "docs/plugins.md says what this plugin wants to know."


def _warn(group: Group, tell: Tell) -> None:
    if set(group.plugins.identity) <= KNOW_LINKS_ONLY:
        tell(
            Finding(
                True,
                "No identity plugin knows usernames: nobody is found by theirs, and who has no account is not "
                "found at all.",
                'Put "roblox" (or "local") before the others in plugins.identity.',
            )
        )
    if "roblox" in (group.plugins.ranking, *group.plugins.identity) and group.places.unknown == "accept":
        tell(
            Finding(
                True,
                "Shifts of places that callboard.toml does not list are accepted.",
                'In a live group, list the places and set places.unknown = "refuse".',
            )
        )


# ------------------------------------------------------------------------------------------- plugins


async def _examine_plugin(plugin: Examinable) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(SECONDS_FOR_A_PLUGIN), AsyncExitStack() as stack:
            if isinstance(plugin, AbstractAsyncContextManager):
                await stack.enter_async_context(plugin)
            async for finding in plugin.examine():
                found.append(finding)  # noqa: PERF401 - what was found before a failure stands
    except TimeoutError:
        found.append(
            Finding(
                False,
                f"It did not come to an end within {SECONDS_FOR_A_PLUGIN:.0f} s.",
                "Can this machine reach what the plugin asks?",
            )
        )
    except PyMongoError:
        found.append(Finding(True, "Not looked at, for MongoDB does not answer.", "Mend that first."))
    except (ServiceError, ConfigurationError) as error:
        found.append(Finding(False, _sentence(error), "Can this machine reach what the plugin asks?"))
    except Exception as error:  # any fault of somebody's plugin; its text may hold a secret
        found.append(Finding(False, f"It failed: {type(error).__name__}.", "A fault of the plugin's."))
    return found


# -------------------------------------------------------------------------------- MongoDB and NATS


async def _examine_mongodb(databases: Mapping[str, Database]) -> AsyncIterator[Finding]:
    gateway = databases["gateway"]
    try:
        build = await gateway.command("buildInfo")
        before = datetime.now(UTC)
        hello = await gateway.command("hello")
        now = before + (datetime.now(UTC) - before) / 2
    except PyMongoError as error:
        yield Finding(
            False,
            f"MongoDB does not answer: {_sentence(error)}",
            "Is Callboard running? `callboard status`, and mongod's log, tell more.",
        )
        return
    version = tuple(build["versionArray"][:2])
    if version < _OLDEST_MONGODB:
        yield Finding(False, f"MongoDB {build['version']} answers.", "Callboard needs 6.0 or newer.")
    elif version < _OLDEST_MONGODB_WITH_FIXES:
        mend = "It gets no more fixes. A live group brings its own: see docs/operating.md."
        yield Finding(True, f"MongoDB {build['version']} answers.", mend)
    else:
        yield Finding(True, f"MongoDB {build['version']} answers.")
    if "setName" not in hello:
        yield Finding(
            False, "MongoDB is no member of a replica set.", "Make it one, of one member if need be."
        )
    elif not hello["isWritablePrimary"]:
        yield Finding(
            False, "This member of MongoDB takes no writes.", "Name the replica set in CALLBOARD_MONGO_URL."
        )
    behind = abs((hello["localTime"].replace(tzinfo=UTC) - now).total_seconds())
    if behind > _CLOCK_TOLERANCE_SECONDS:
        yield Finding(
            False,
            f"The clocks of this machine and of MongoDB's differ by {behind:.0f} s.",
            "Turn time synchronisation on, on both: `timedatectl set-ntp true`.",
        )
    else:
        yield Finding(True, "The clocks of this machine and of MongoDB's agree.")
    are_right = True
    for name, database in databases.items():
        try:
            await check_migrated(database, collections_of(name))
        except ConfigurationError as error:
            are_right = False
            yield Finding(False, _sentence(error), "Callboard may run meanwhile.")
        except PyMongoError as error:
            are_right = False
            yield Finding(
                False,
                f'Database "{name}" cannot be read: {_sentence(error)}',
                "Its user needs the roles readWrite and dbAdmin there.",
            )
    if are_right:
        yield Finding(True, "The databases are up to date.")
        async for finding in _examine_outboxes(databases):
            yield finding


async def _examine_outboxes(databases: Mapping[str, Database]) -> AsyncIterator[Finding]:
    for name, database in databases.items():
        refused = {"sent": False, "refused": {"$exists": True}}
        async for event in database[OUTBOX.name].find(refused, {"refused": True}).limit(_MOST_REFUSED_EVENTS):
            yield Finding(
                False,
                f"NATS refuses the event {event['_id']} of {name}, which waits: {event['refused']}.",
                "Raise the limit that it names, or remove the event; docs/operating.md, Events wait.",
            )


async def _examine_nats(system: Settings) -> AsyncIterator[Finding]:
    causes: list[Exception] = []

    async def note(error: Exception) -> None:
        causes.append(error)

    try:
        client = await nats.connect(
            system.nats_url.get_secret_value().split(","),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.1,
            connect_timeout=2,
            error_cb=note,
        )
    except (OSError, NatsError, ValueError, TimeoutError) as error:
        cause = (causes or [error])[-1]
        yield Finding(
            False,
            f"NATS does not answer: {_sentence(cause)}",
            "Is Callboard running? `callboard status`, and the log of nats-server, tell more.",
        )
        return
    try:
        version = client.connected_server_version
        name = f"NATS {version.major}.{version.minor}.{version.patch}"
        is_old = (version.major, version.minor) < _OLDEST_NATS
        yield Finding(not is_old, f"{name} answers.", "Callboard needs 2.11 or newer." if is_old else "")
        jetstream = client.jetstream(timeout=2)
        await jetstream.account_info()
        stream = await _examine_stream(jetstream, system)
        yield stream
        if stream.is_right:
            async for finding in examine_consumers(jetstream):
                yield finding
    except ServiceUnavailableError:
        yield Finding(
            False, "NATS runs without JetStream.", "docs/operating.md shows what its configuration needs."
        )
    except NatsError as error:
        yield Finding(
            False,
            f"NATS does not tell of its JetStream: {_sentence(error)}",
            "Has its cluster a leader, and may this user publish to $JS.API.INFO? Its log tells.",
        )
    finally:
        with suppress(NatsError):
            await client.close()


async def _examine_stream(jetstream: JetStreamContext, system: Settings) -> Finding:
    wait = "Until then events wait in the outboxes, and none is lost; docs/operating.md, Events wait."
    try:
        info = await jetstream.stream_info(STREAM)
    except NotFoundError:
        # Whether it would fit is for NATS to say. A service that starts asks for the same.
        try:
            await ensure_stream(jetstream, system)
        except NatsError as error:
            return Finding(False, why_refused(error, system), wait)
        return Finding(True, f"NATS has room for the stream {STREAM}, which was not there and is now.")
    except NatsError as error:
        return Finding(False, why_refused(error, system), wait)
    if different := differences(info.config, wanted_stream(system)):
        mend = "A service changes it when it starts with these settings; where NATS refuses that, its log says why."
        return Finding(True, why_different(different), mend)
    if not info.config.max_bytes or info.state.bytes < _NEARLY_FULL * info.config.max_bytes:
        return Finding(True, f"The stream {STREAM} is as it should be, and has room.")
    full = f"The stream {STREAM} is nearly full: {info.state.bytes} of {info.config.max_bytes} bytes."
    return Finding(
        True, full, "Set CALLBOARD_STREAM_MAX_BYTES to more; full, it takes no events, which then wait."
    )


# -------------------------------------------------------------------------------------- the public URL


async def _examine_public_url(system: Settings) -> AsyncIterator[Finding]:
    try:
        url = read_settings(ApplicationsSettings, **dict(system)).public_url
    except ConfigurationError as error:
        yield Finding(False, _sentence(error), "Set it to the https:// URL at which games reach the gateway.")
        return
    port = url.port or 0
    yield await _ask(f"{str(url).rstrip('/')}/healthz")
    if _is_local(url.host or ""):
        yield Finding(
            True,
            f"Roblox's servers cannot reach {url}.",
            "Fine for trying things out. A live group sets CALLBOARD_PUBLIC_URL; see docs/connect-your-group.md.",
        )
        return
    if url.scheme == "http":
        yield Finding(True, f"Keys travel in clear text to {url}.", "Serve HTTPS; docs/security.md says how.")
    if (port < 1024 and port not in _PORTS_OPEN_TO_ROBLOX) or port == _PORT_CLOSED_TO_ROBLOX:
        yield Finding(
            True, f"Roblox's servers may not use port {port}.", "Use 443, 80, or one from 1024 on but 1194."
        )


async def _ask(url: str) -> Finding:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_SECONDS_FOR_THE_PUBLIC_URL) as client:
            answer = await client.get(url)
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            mend = "Roblox's servers will not take it either: get one of a public authority, for this name."
            return Finding(False, f"{url} has no valid certificate.", mend)
        return Finding(
            False,
            f"{url} does not answer: {_sentence(error)}",
            "Does Callboard run, is the port open, does the name lead here? "
            "Some networks cannot be reached from inside: then ask from elsewhere.",
        )
    if answer.is_redirect:
        where = answer.headers.get("location", "nowhere")
        mend = "Set CALLBOARD_PUBLIC_URL to where it leads: a shift that is sent to a redirect is lost."
        return Finding(False, f"{url} answered {answer.status_code}, a redirect to {where}.", mend)
    if answer.status_code != 200 or answer.content != b'{"status":"ok"}':
        mend = "Is that Callboard's gateway, or something before it that passes nothing on?"
        return Finding(False, f"{url} answered {answer.status_code}, and not as Callboard does.", mend)
    return Finding(True, f"{url} answers.")


def _is_local(host: str) -> bool:
    try:
        return not ip_address(host.strip("[]")).is_global
    except ValueError:
        return host == "localhost"


def _sentence(error: Exception) -> str:
    """What an error says, without what drivers append."""
    text = re.split(r"\n|, Timeout| \(configured timeouts", str(error))[0][:500]
    return f"{text.rstrip('.') or type(error).__name__}."
