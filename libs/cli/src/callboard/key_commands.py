"""`callboard keys`: making, listing and ending the keys of games, bots and operators."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from callboard.terminal import AsJson, DataDir, moment, run, settings, show_json, shown, table_of, told
from common.group import parse_duration

keys_app = typer.Typer(help="The keys of games, bots and operators.", no_args_is_help=True)


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


def _lifetime(given: str) -> timedelta:
    lifetime = _duration(given)
    if not lifetime:
        raise typer.BadParameter("expected more than nothing; without --expires, a key does not expire")
    return lifetime


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="What logs and records will call the key.")],
    scope: Annotated[Scope, typer.Option(help="Who the key is for.")],
    place: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Only for this place (scope roblox); repeatable.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(metavar="CIDR", help="Only from this network; repeatable.")
    ] = None,
    expires: Annotated[
        timedelta | None, typer.Option(parser=_lifetime, metavar="90d", help="How long it is valid.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="500/min", help="How many requests it may make.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once."""
    from callboard import keys

    key = run(
        keys.create(
            settings(data_dir),
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

    found = run(keys.all_keys(settings(data_dir)))
    if as_json:
        show_json([{**key.model_dump(mode="json"), "state": keys.state(key)} for key in found])
        return
    table = table_of("name", "key", "scope", "state", "places", "networks", "rate", "expires", "last used")
    for key in found:
        table.add_row(
            key.name,
            f"{key.prefix}…",
            key.scope,
            keys.state(key),
            ", ".join(map(str, sorted(key.places))) or "all",
            ", ".join(map(str, key.networks)) or "all",
            key.rate or "default",
            moment(key.expires_at),
            moment(key.last_used_at),
        )
    shown.print(table)


@keys_app.command("rotate")
def keys_rotate(
    name: str,
    overlap: Annotated[
        timedelta,
        typer.Option(
            parser=_duration, metavar="24h", show_default="24h", help="How long the old key stays valid."
        ),
    ] = timedelta(hours=24),
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key's successor. It is shown once."""
    from callboard import keys

    _show_key(name, run(keys.rotate(settings(data_dir), name, overlap)), as_json)


@keys_app.command("revoke")
def keys_revoke(name: str, data_dir: DataDir = None) -> None:
    """Let a key open nothing any more."""
    from callboard import keys

    run(keys.revoke(settings(data_dir), name))
    told.print(f"{name} opens nothing any more.")


def _show_key(name: str, key: str, as_json: bool) -> None:
    if as_json:
        show_json({"name": name, "key": key})
    else:
        told.print(f"The key {name}; it cannot be shown again:")
        typer.echo(key)
