"""The people that the local plugins know: reading them from a CSV file, showing them, and taking somebody out."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from accounts.models import Account, KnownPerson, PersonChange
from accounts.people import Imported, ImportRefused, import_people, remove_person
from accounts.plugins.local import local_rankid
from accounts.repository import Accounts, People, username_key
from callboard.access import open_database
from callboard.errors import CommandError
from common.errors import ConfigurationError
from common.group import Group, load_group
from common.settings import Settings
from common.text_files import read_text

_COLUMNS = ("id", "username", "rank", "discord")
_SEPARATORS = ",;\t"
_MAX_SHOWN = 20
_ROUNDED = re.compile(r"[0-9]+([.,][0-9]+)?E\+?[0-9]+", re.IGNORECASE)


class PersonFound(NamedTuple):
    """A person that the local plugins know, and the account, if there is one."""

    known: KnownPerson
    rank: str
    account: Account | None
    certifications: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        account = self.account
        return {
            **person_to_json(self.known, self.rank),
            "account": account.account if account else None,
            "points": account.points if account else 0,
            "certifications": list(self.certifications),
        }


async def import_file(settings: Settings, path: Path) -> Imported:
    """Add the people of the file, or change them; nobody when a line has a mistake.

    Raises CommandError that names the lines with mistakes, or says that nobody would see these people.
    """
    group = _load(settings)
    lines = read_people(path, group)
    numbers = list(lines)
    async with open_database(settings, "accounts") as database:
        try:
            return await import_people(database, group, list(lines.values()))
        except ImportRefused as error:
            raise _refused(
                path, [(numbers[one.which], one.field, one.reason) for one in error.conflicts]
            ) from None


async def list_people(settings: Settings) -> list[tuple[KnownPerson, str]]:
    """Everybody whom the local plugins know, by id, with the name of the rank."""
    group = _load(settings)
    async with open_database(settings, "accounts") as database:
        return [(one, group.rank_at(one.rankid).name) async for one in People(database).all()]


async def find_person(
    settings: Settings, user: int | None, username: str | None, discord: int | None
) -> PersonFound:
    """The person with this id, username or Discord account, of which one is given. Raises CommandError."""
    if [user, username, discord].count(None) != 2:
        raise CommandError("Name exactly one person: by id, or with --username or --discord.")
    group = _load(settings)
    async with open_database(settings, "accounts") as database:
        people = People(database)
        known: KnownPerson | None
        if user is not None:
            (known,) = await people.by_ids([user])
        elif username is not None:
            known = await people.by_username(username)
        else:
            known = await people.by_discord(discord or 0)
        if known is None:
            raise CommandError("The local plugins know no such person; see `callboard people list`.")
        (account,) = await Accounts(database).by_ids([known.id])
    certifications = account.held(group) if account else []
    return PersonFound(known, group.rank_at(known.rankid).name, account, certifications)


async def remove(settings: Settings, user: int) -> str:
    """Take this person out of what the local plugins know; answers what is left to say. Raises CommandError."""
    group = _load(settings)
    async with open_database(settings, "accounts") as database:
        known = await remove_person(database, group, user)
    if known is None:
        raise CommandError(f"The local plugins know nobody with the id {user}; see `callboard people list`.")
    said = f"Removed {_name(known)} from the people that the local plugins know."
    if group.plugins.ranking == "local":
        said += f" The rank is {group.ranks.ladder[0].name} now."
    said += " Account and history stay."
    if any(one.get("id") == user for one in group.plugins.options.get("local", {}).get("people", ())):
        said += (
            f" {settings.config} lists this person: without a change there, the next start adds them again."
        )
    return said


def person_to_json(person: KnownPerson, rank: str) -> dict[str, Any]:
    """What is known of a person."""
    return {
        "id": person.id,
        "username": person.username,
        "rank": rank,
        "rankid": person.rankid,
        "discord": None if person.discord is None else str(person.discord),
    }


def _name(person: KnownPerson) -> str:
    return f"{person.id}" if person.username is None else f"{person.username} ({person.id})"


def _load(settings: Settings) -> Group:
    group = load_group(settings.config)
    if "local" not in (*group.plugins.identity, group.plugins.ranking):
        raise CommandError(
            f'{settings.config} names the plugin "local" neither for identity nor for ranking: '
            "nobody would see these people."
        )
    return group


# ---------------------------------------------------------------------------------------- the CSV file


def read_people(path: Path, group: Group) -> dict[int, PersonChange]:
    """The person of each line."""
    text = read_text(path)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    header: Mapping[str, int] | None = None
    mistakes: list[tuple[int, str, str]] = []
    people: dict[int, PersonChange] = {}
    seen: dict[tuple[str, object], int] = {}
    line = 1
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                if header is None:
                    header = _header(path, line, cells)
                else:
                    person, found = _person(header, cells, group)
                    found = found or _repeated(person, line, seen)
                    mistakes += [(line, field, reason) for field, reason in found]
                    if person:
                        people[line] = person
            line = rows.line_num + 1
    except csv.Error as error:
        raise CommandError(f"{path}: line {line}: not valid CSV: {error}.") from error
    if header is None:
        raise CommandError(f"{path}: line 1: must name the columns, such as {','.join(_COLUMNS)}.")
    if mistakes:
        raise _refused(path, mistakes)
    return people


def _separator(text: str) -> str:
    """What the first line that is not empty separates its columns by: spreadsheets of some countries write ";"."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_SEPARATORS, key=header.count)


def _header(path: Path, line: int, cells: Sequence[str]) -> Mapping[str, int]:
    """Where each column is."""
    names = [cell.casefold() for cell in cells]
    where = {name: names.index(name) for name in _COLUMNS if name in names}
    if repeated := [name for name in where if names.count(name) > 1]:
        raise CommandError(f"{path}: line {line}: the column {repeated[0]} is there more than once.")
    if "id" not in where or len(where) == 1:
        raise CommandError(
            f"{path}: line {line}: must name the columns: id, and those of {', '.join(_COLUMNS[1:])} to add or change."
        )
    return where


def _person(
    header: Mapping[str, int], cells: Sequence[str], group: Group
) -> tuple[PersonChange | None, list[tuple[str, str]]]:
    """The person of a line, or what is wrong with it."""
    given: dict[str, str | None] = {
        name: cells[place] if place < len(cells) else "" for name, place in header.items()
    }
    mistakes: dict[str, str] = {}
    for name, value in given.items():
        if not value and name != "discord":
            mistakes[name] = "required, but this cell is empty"
        elif value and name in ("id", "discord") and _ROUNDED.fullmatch(value):
            mistakes[name] = (
                f"{value} was rounded by a spreadsheet: format the column as text, and enter the number again"
            )
    if not given.get("discord"):
        given |= {"discord": None} if "discord" in header else {}
    person = None
    try:
        person = PersonChange.model_validate(given)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            mistakes.setdefault(str(one["loc"][0]), f"{one['msg']}, found {one['input']!r}")
    try:
        if given.get("rank"):
            local_rankid(group, str(given["rank"]))
    except ConfigurationError as error:
        mistakes["rank"] = str(error).rstrip(".")
    return (None if mistakes else person), [(name, mistakes[name]) for name in header if name in mistakes]


def _repeated(
    person: PersonChange | None, line: int, seen: dict[tuple[str, object], int]
) -> list[tuple[str, str]]:
    """What this line says that an earlier one says of somebody else."""
    if person is None:
        return []
    keys = {
        "id": person.id,
        "username": None if person.username is None else username_key(person.username),
        "discord": person.discord,
    }
    return [
        (name, f"line {before} has the same")
        for name, value in keys.items()
        if value is not None and (before := seen.setdefault((name, value), line)) != line
    ]


def _refused(path: Path, mistakes: Sequence[tuple[int, str, str]]) -> CommandError:
    shown = [f"{path}: line {line}: {field}: {reason}." for line, field, reason in mistakes[:_MAX_SHOWN]]
    if len(mistakes) > _MAX_SHOWN:
        shown.append(f"and {len(mistakes) - _MAX_SHOWN} more.")
    return CommandError("\n".join(shown))
