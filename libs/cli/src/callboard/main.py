"""The operator's command: each function here reads its options, calls what does the work, and shows it."""

import re
from dataclasses import asdict
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from callboard.components import Options
from callboard.errors import CommandError, of_mongodb
from callboard.key_commands import keys_app
from callboard.services import SERVICES
from callboard.terminal import (
    AsJson,
    DataDir,
    moment,
    progress,
    run,
    settings,
    show_json,
    shown,
    table_of,
    told,
)
from common.errors import ConfigurationError


class _Commands(TyperGroup):
    """Commands whose expected errors are one sentence on standard error and status 1.

    An error of NATS is a CommandError before it comes here; a time-out of Python's own would be an OSError.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, ConfigurationError) as error:
            typer.echo(error, err=True)
        except BrokenPipeError:  # who reads what we print has enough of it
            raise
        except Exception as error:
            sentence = of_mongodb(error)
            if sentence is None and isinstance(error, OSError):
                sentence = f"Operating system error: {error}."
            if sentence is None:
                raise
            typer.echo(sentence, err=True)
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Commands,
    help="Run Callboard and look after its data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
people_app = typer.Typer(help="The people that the local plugins know.", no_args_is_help=True)
letters_app = typer.Typer(help="Events that a service gave up on.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(people_app, name="people")
app.add_typer(letters_app, name="dead-letters")


def _replicas(text: str) -> tuple[str, int]:
    found = re.fullmatch(rf"({'|'.join(SERVICES)})=([1-9]\d?)", text)
    if found is None:
        raise typer.BadParameter(
            f"expected a service and a number, such as shifts=2; services: {', '.join(SERVICES)}"
        )
    return found[1], int(found[2])


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise typer.BadParameter(f"{error}") from None


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
        typer.Option(
            parser=_network, metavar="CIDR", help="Proxies whose X-Forwarded-For is believed; repeatable."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Certificate chain to serve HTTPS with."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The certificate's private key.")
    ] = None,
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
    from callboard.up import up as start

    if replicas and not processes:
        raise CommandError("--replicas needs --processes: in one process there is one of each service.")
    if (tls_cert is None) != (tls_key is None):
        raise CommandError("--tls-cert and --tls-key need each other.")
    start(
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


@people_app.command("import")
def people_import(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="With the columns id,username,rank,discord.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Add or change people for the local identity and ranking plugins."""
    from accounts.people import Imported
    from callboard.access import open_database
    from callboard.acts import record
    from callboard.people import import_file

    async def bring_in() -> Imported:
        own = settings(data_dir)
        done = await import_file(own, file)
        numbers = f"{done.added} added, {done.changed} changed, {done.unchanged} unchanged"
        async with open_database(own, "gateway") as gateway:
            await record(gateway, "import", f"Imported people: {numbers}.")
        return done

    done = run(bring_in())
    told.print(
        f"People imported: {sum(done)} ({done.added} added, {done.changed} changed, "
        f"{done.unchanged} unchanged).",
        soft_wrap=True,
    )


@people_app.command("list")
def people_list(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the people that the local plugins know."""
    from callboard.people import list_people, person_to_json

    found = run(list_people(settings(data_dir)))
    if as_json:
        show_json([person_to_json(person, rank) for person, rank in found])
        return
    table = table_of("id", "username", "rank", "discord")
    for person, rank in found:
        table.add_row(str(person.id), Text(person.username or ""), Text(rank), str(person.discord or ""))
    shown.print(table if table.rows else "The local plugins know nobody.")


@people_app.command("show")
def people_show(
    user: Annotated[int | None, typer.Argument(metavar="[ID]", help="Whom, by Roblox id.")] = None,
    username: Annotated[str | None, typer.Option(help="Whom, by username in any case.")] = None,
    discord: Annotated[int | None, typer.Option(help="Whom, by Discord id.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show one of the people that the local plugins know, with the account."""
    from callboard.people import find_person

    found = run(find_person(settings(data_dir), user, username, discord)).to_json()
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        text = ", ".join(value) if isinstance(value, list) else value
        shown.print(Text(f"{name + ':':<16}{'none' if text in (None, '') else text}"), soft_wrap=True)


@people_app.command("remove")
def people_remove(
    user: Annotated[int, typer.Argument(metavar="ID", help="Whom, by Roblox id.")],
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Take somebody out of what the local plugins know; account and history stay."""
    from callboard.access import open_database
    from callboard.acts import record
    from callboard.people import find_person, remove

    async def take_out() -> str:
        said = await remove(own, user)
        async with open_database(own, "gateway") as gateway:
            await record(gateway, "import", f"Removed person {user} from what the local plugins know.")
        return said

    own = settings(data_dir)
    if not is_sure:
        found = run(find_person(own, user, None, None))
        name = found.known.username or user
        typer.confirm(
            f"Remove {name} ({found.rank}) from the people that the local plugins know?", abort=True
        )
    told.print(run(take_out()), markup=False, soft_wrap=True)


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 50,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List what operators did, newest first: keys, imports, restores, repairs, dropped letters."""
    from callboard.acts import acts

    found = run(acts(settings(data_dir), limit))
    if as_json:
        show_json([{**one, "at": one["at"].isoformat()} for one in found])
        return
    table = table_of("at", "act", "by", "what")
    for one in found:
        table.add_row(moment(one["at"]), Text(one["act"]), Text(one["by"]), Text(one["text"]))
    shown.print(table if table.rows else "Nothing was recorded so far.")


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

    async def compare() -> verifying.Report:
        with Progress(console=told, transient=True, disable=not told.is_terminal) as progress:
            tasks: dict[str, Any] = {}

            def advance(what: str, done: int, total: int) -> None:
                task = (
                    tasks[what]
                    if what in tasks
                    else tasks.setdefault(what, progress.add_task(f"Comparing {what}"))
                )
                progress.update(task, completed=done, total=max(done, total))

            return await verifying.verify(settings(data_dir), advance, repair=repair)

    report = run(compare())
    if as_json:
        show_json(report.to_json())
    else:
        typer.echo("\n".join(report.sentences()))
    raise typer.Exit(0 if report.is_good else 1)


@app.command()
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A new file; - for standard output.")],
    data_dir: DataDir = None,
) -> None:
    """Write all databases as they are now into one file, while Callboard runs."""
    from callboard.backup import backup as write
    from callboard.backup_file import new_file

    async def make() -> str:
        with progress("Backing up") as advance, new_file(file) as target:
            return await write(settings(data_dir), target, advance)

    told.print(f"Backed up {run(make())}.", soft_wrap=True)


@app.command()
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A backup; - for standard input.")],
    revoke_keys: Annotated[
        bool,
        typer.Option(
            "--revoke-keys", help="Revoke every key of the backup before any of them is valid again."
        ),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring a backup back into an empty system that does not run, and name the keys that are valid again."""
    from contextlib import nullcontext

    from callboard.access import data_dir_of
    from callboard.backup_file import present_file
    from callboard.restore import Restored, stopped_system
    from callboard.restore import restore as read

    folder = data_dir_of(data_dir)
    system = stopped_system(folder) if folder else nullcontext(settings(None))

    async def bring_back() -> Restored:
        with progress("Restoring") as advance:
            return await read(system, source, advance, revoke_keys=revoke_keys)

    with present_file(file) as source:
        restored = run(bring_back())
    table = table_of("name", "key", "scope", "created", "last used", "since the backup")
    for key, change in restored.keys:
        table.add_row(
            key.name, f"{key.prefix}…", key.scope, moment(key.created_at), moment(key.last_used_at), change
        )
    if table.rows:
        told.print(table)
        told.print(
            "These keys are revoked: make others with `callboard keys create`, or let `callboard up` make the first."
            if revoke_keys
            else "These keys are valid again. Revoke each that should not be: `callboard keys revoke NAME`.",
            soft_wrap=True,
        )
    told.print(
        f"Restored {restored.held}. Start Callboard; then run `callboard verify --repair`.", soft_wrap=True
    )


@app.command()
def sync(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Read every member's rank again now, where ranks are kept elsewhere, and wait until it is done."""
    from accounts.models import CompletedSync, Sync
    from callboard.sync import sync as follow

    async def wait() -> CompletedSync:
        with told.status("Waiting for accounts") as line:

            def advance(state: Sync) -> None:
                if state.began_at is not None:
                    trouble = f"; waits: {state.trouble}" if state.trouble else ""
                    line.update(f"{state.seen} members seen, {state.changed} ranks changed{trouble}")

            return await follow(settings(data_dir), advance)

    done = run(wait())
    if as_json:
        show_json(done.model_dump(mode="json"))
        return
    typer.echo(f"{done.seen} members seen, {done.changed} ranks changed.")
    if done.missed:
        typer.echo(
            f"The list of members lacked {done.missed} who are members, or who could not be read or asked for."
        )


@letters_app.command("list")
def letters_list(data_dir: DataDir = None) -> None:
    """List the events that a service gave up on, and why."""
    from callboard.dead_letters import DeadLetter, dead_letters

    async def collect() -> list[DeadLetter]:
        return [letter async for letter in dead_letters(settings(data_dir))]

    table = table_of("service", "event", "subject", "at", "reason")
    for letter in run(collect()):
        # As it is: the console would read [brackets] as a style.
        table.add_row(
            letter.service, Text(letter.id), Text(letter.subject), moment(letter.at), Text(letter.reason)
        )
    shown.print(table if table.rows else "There are no dead letters.")


@letters_app.command("replay")
def letters_replay(data_dir: DataDir = None) -> None:
    """Send these events again, once the cause is mended."""
    from callboard.dead_letters import replay

    told.print(f"Events sent again: {run(replay(settings(data_dir)))}.")


@letters_app.command("drop")
def letters_drop(
    service: Annotated[str, typer.Argument(help="Whose dead letters, as `list` says.")],
    events: Annotated[list[str], typer.Argument(metavar="EVENT", help="Which, as `list` says.")],
    data_dir: DataDir = None,
) -> None:
    """Forget events that are worth nothing, for good; what happened is as true as before."""
    from callboard.dead_letters import drop

    run(drop(settings(data_dir), service, events))
    told.print(f"{service} has forgotten: {', '.join(events)}.", markup=False, soft_wrap=True)


@app.command()
def plugins(
    config: Annotated[
        Path, typer.Option(envvar="CALLBOARD_CONFIG", help="The group's configuration file.")
    ] = Path("callboard.toml"),
) -> None:
    """List the plugins that are installed, and which of them the configuration names."""
    from callboard.plugins import plugin_points
    from callboard.plugins import plugins as find
    from common.group import load_group

    last = None
    for plugin in find(load_group(config)):
        if plugin.point != last:
            of = plugin_points()[plugin.point]
            shown.print(f"{plugin.point.entries}: {plugin.point.decides} ({of})", soft_wrap=True)
        last = plugin.point
        use = "in use" if plugin.is_active else ""
        shown.print(f"  {plugin.name:<14}{use:<8}{plugin.package or 'not installed'}")


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the databases of all services, and what their consumers ask NATS for, up to date."""
    from callboard.consumers import set_filters
    from callboard.databases import migrate_all

    system = settings(data_dir)
    run(migrate_all(system))
    told.print("The databases are up to date.")
    if left_alone := run(set_filters(system)):
        told.print(left_alone, markup=False, soft_wrap=True)


@app.command()
def doctor(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Check the configuration against the real services, and say how to mend what is wrong; status 1 then."""
    from callboard.doctor import examine, verdict
    from common.plugins import Finding

    styles = {"right": "green", "warning": "yellow", "wrong": "bold red"}
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            word = verdict(finding)
            shown.print(Text.assemble((f"{word:<9}", styles[word]), finding.what), soft_wrap=True)
            if finding.mend:
                shown.print(Text(f"{'':<9}{finding.mend}"), soft_wrap=True)

    run(examine(data_dir, tell))
    is_good = all(finding.is_right for finding in found)
    if as_json:
        lines = [{"verdict": verdict(one), "what": one.what, "mend": one.mend} for one in found]
        show_json({"ok": is_good, "lines": lines})
    raise typer.Exit(0 if is_good else 1)


@app.command()
def status(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show what runs and how it is; status 1 unless all of it is well."""
    from callboard.access import data_dir_of
    from callboard.status import status as ask

    found = run(ask(settings(data_dir), data_dir_of(data_dir)))
    if as_json:
        show_json({"ok": found.is_good, **asdict(found)})
    else:
        table = table_of("component", "state", "pid", "port", "memory", "up", "log")
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
        for what, counts in (
            ("unsent events", found.unsent_events),
            ("of these, refused by NATS", found.refused_events),
            ("dead letters", found.dead_letters),
        ):
            shown.print(f"{what}: {'unknown' if counts is None else sum(counts.values())}")
        if found.trouble:
            told.print(found.trouble, markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.is_good else 1)
