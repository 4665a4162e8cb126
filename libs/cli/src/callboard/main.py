"""The operator's command: each function here reads its options, calls what does the work, and shows it."""

import json
import re
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from callboard.components import Options
from callboard.errors import CommandError
from callboard.system import SERVICES
from common.errors import ConfigurationError
from common.group import parse_duration

if TYPE_CHECKING:  # what a command needs is imported when it runs: `up` starts sooner and stays small
    from common.settings import Settings

T = TypeVar("T")

# Where nobody looks at it, a table may be as wide as it is.
shown = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
told = Console(stderr=True, highlight=False)


class _Commands(TyperGroup):
    """Commands whose expected errors are one sentence on standard error and status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, ConfigurationError) as error:
            typer.echo(error, err=True)
        except Exception as error:
            if not type(error).__module__.startswith("pymongo"):
                raise
            typer.echo(
                f"MongoDB does not answer as it should; is Callboard running? ({_first_line(error)})",
                err=True,
            )
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Commands,
    help="Run Callboard and look after its data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="The keys of games, bots and operators.", no_args_is_help=True)
people_app = typer.Typer(help="The people that the local plugins know.", no_args_is_help=True)
letters_app = typer.Typer(help="Events that a service gave up on.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(people_app, name="people")
app.add_typer(letters_app, name="dead-letters")


class Scope(StrEnum):
    """Who a key is for."""

    roblox = "roblox"
    discord = "discord"
    operator = "operator"


def _duration(given: str | timedelta) -> timedelta:
    try:
        return parse_duration(given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _replicas(text: str) -> tuple[str, int]:
    found = re.fullmatch(rf"({'|'.join(SERVICES)})=([1-9]\d?)", text)
    if found is None:
        raise typer.BadParameter(
            f"expected a service and a number, such as shifts=2; services: {', '.join(SERVICES)}"
        )
    return found[1], int(found[2])


DataDir = Annotated[
    Path | None,
    typer.Option(
        help="The system's data folder; without it, what CALLBOARD_* variables say, else .callboard."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address that the gateway listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the gateway listens on.")] = 8080,
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".callboard"),
    config: Annotated[
        Path, typer.Option(envvar="CALLBOARD_CONFIG", help="The group's configuration file.")
    ] = Path("callboard.toml"),
    processes: Annotated[
        bool, typer.Option("--processes", help="Run the gateway and each service in processes of their own.")
    ] = False,
    replicas: Annotated[
        list[Any] | None,
        typer.Option(parser=_replicas, metavar="SERVICE=N", help="Processes of a service; repeatable."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Proxies whose X-Forwarded-For is believed; repeatable."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain to serve HTTPS with.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key.")] = None,
    mongo_url: Annotated[
        str | None,
        typer.Option(
            envvar="CALLBOARD_MONGO_URL",
            help="Your own MongoDB. Prefer the variable: every user of a machine can see command lines.",
        ),
    ] = None,
    nats_url: Annotated[
        str | None, typer.Option(envvar="CALLBOARD_NATS_URL", help="Your own NATS. Prefer the variable.")
    ] = None,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    from callboard.up import up as run

    if replicas and not processes:
        raise CommandError("--replicas needs --processes: in one process there is one of each service.")
    run(
        Options(
            data_dir=data_dir,
            config=config,
            host=host,
            port=port,
            processes=processes,
            replicas=dict(replicas or ()),
            trusted_proxies=tuple(trusted_proxy or ()),
            tls_cert=tls_cert,
            tls_key=tls_key,
            mongo_url=mongo_url,
            nats_url=nats_url,
        )
    )


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="What logs and records will call the key.")],
    scope: Annotated[Scope, typer.Option(help="Who the key is for.")],
    place: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Only for this place; repeatable.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(metavar="CIDR", help="Only from this network; repeatable.")
    ] = None,
    expires: Annotated[
        timedelta | None, typer.Option(parser=_duration, metavar="90d", help="How long it is valid.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="500/min", help="How many requests it may make.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once."""
    from callboard import keys

    key = _run(
        keys.create(
            _settings(data_dir),
            name,
            scope.value,
            places=place or (),
            networks=network or (),
            lifetime=expires,
            rate=rate,
        )
    )
    _show_key(name, key, as_json)


@keys_app.command("list")
def keys_list(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the keys: all but the keys themselves, which nobody can read again."""
    from callboard import keys

    found = _run(keys.all_keys(_settings(data_dir)))
    if as_json:
        _show_json([{**key.model_dump(mode="json"), "state": keys.state(key)} for key in found])
        return
    table = _table("name", "key", "scope", "state", "places", "networks", "rate", "expires", "last used")
    for key in found:
        table.add_row(
            key.name,
            f"{key.prefix}…",
            key.scope,
            keys.state(key),
            ", ".join(map(str, sorted(key.places))) or "all",
            ", ".join(map(str, key.networks)) or "all",
            key.rate or "default",
            _moment(key.expires_at),
            _moment(key.last_used_at),
        )
    shown.print(table)


@keys_app.command("rotate")
def keys_rotate(
    name: str,
    overlap: Annotated[
        timedelta,
        typer.Option(parser=_duration, metavar="24h", help="How long the old key stays valid."),
    ] = timedelta(hours=24),
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key's successor. It is shown once."""
    from callboard import keys

    _show_key(name, _run(keys.rotate(_settings(data_dir), name, overlap)), as_json)


@keys_app.command("revoke")
def keys_revoke(name: str, data_dir: DataDir = None) -> None:
    """Let a key open nothing any more."""
    from callboard import keys

    _run(keys.revoke(_settings(data_dir), name))
    told.print(f"{name} opens nothing any more.")


@people_app.command("import")
def people_import(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="With the columns id,username,rank,discord.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Add or change people for the local identity and ranking plugins."""
    from callboard.people import import_file

    told.print(f"People imported: {_run(import_file(_settings(data_dir), file))}.")


@app.command()
def verify(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Set totals to what the ledger adds up to, and publish again what is missing."
        ),
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Check that every shift is counted exactly once; status 1 if not."""
    from rich.progress import Progress

    from callboard import verify as verifying

    with Progress(console=told, transient=True, disable=not told.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            task = (
                tasks[what]
                if what in tasks
                else tasks.setdefault(what, progress.add_task(f"Comparing {what}"))
            )
            progress.update(task, completed=done, total=max(done, total))

        report = _run(verifying.verify(_settings(data_dir), advance, repair=repair))
    if as_json:
        _show_json(report.to_json())
    else:
        typer.echo("\n".join(report.sentences()))
    raise typer.Exit(0 if report.is_good else 1)


@letters_app.command("list")
def letters_list(data_dir: DataDir = None) -> None:
    """List the events that a service gave up on, and why."""
    from callboard.dead_letters import DeadLetter, dead_letters

    async def collect() -> list[DeadLetter]:
        return [letter async for letter in dead_letters(_settings(data_dir))]

    table = _table("service", "event", "subject", "at", "reason")
    for letter in _run(collect()):
        table.add_row(letter.service, letter.id, letter.subject, _moment(letter.at), letter.reason)
    shown.print(table if table.rows else "There are no dead letters.")


@letters_app.command("replay")
def letters_replay(data_dir: DataDir = None) -> None:
    """Send these events again, once the cause is mended."""
    from callboard.dead_letters import replay

    told.print(f"Events sent again: {_run(replay(_settings(data_dir)))}.")


@app.command()
def plugins(
    config: Annotated[
        Path, typer.Option(envvar="CALLBOARD_CONFIG", help="The group's configuration file.")
    ] = Path("callboard.toml"),
) -> None:
    """List the plugins that are installed, and which of them the configuration names."""
    from callboard.plugins import plugins as find
    from common.group import load_group
    from common.plugins import PLUGIN_POINTS

    last = None
    for plugin in find(load_group(config)):
        if plugin.point != last:
            shown.print(f"{plugin.point}: {PLUGIN_POINTS[plugin.point]}", soft_wrap=True)
        last = plugin.point
        use = "in use" if plugin.is_active else ""
        shown.print(f"  {plugin.name:<14}{use:<8}{plugin.package or 'not installed'}")


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the databases of all services up to date."""
    from callboard.databases import migrate_all

    _run(migrate_all(_settings(data_dir)))
    told.print("The databases are up to date.")


@app.command()
def status(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show what runs and how it is; status 1 unless all of it is well."""
    from callboard.access import data_dir_of
    from callboard.status import status as ask

    found = _run(ask(_settings(data_dir), data_dir_of(data_dir)))
    if as_json:
        _show_json({"ok": found.is_good, **asdict(found)})
    else:
        table = _table("component", "state", "pid", "port", "memory", "up", "log")
        for one in found.components:
            table.add_row(
                one.name,
                one.state,
                str(one.pid),
                str(one.port or ""),
                f"{one.memory_mb} MB",
                str(timedelta(seconds=one.seconds)),
                one.log,
            )
        shown.print(table if table.rows else "No component of `callboard up` runs.")
        for what, counts in (("unsent events", found.unsent_events), ("dead letters", found.dead_letters)):
            shown.print(f"{what}: {'MongoDB does not answer' if counts is None else sum(counts.values())}")
    raise typer.Exit(0 if found.is_good else 1)


def _settings(data_dir: Path | None) -> "Settings":
    from callboard.access import find_settings

    return find_settings(data_dir)


def _run(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(work)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _show_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def _show_key(name: str, key: str, as_json: bool) -> None:
    if as_json:
        _show_json({"name": name, "key": key})
    else:
        told.print(f"The key {name}; it cannot be shown again:")
        typer.echo(key)


def _moment(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else "never"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
