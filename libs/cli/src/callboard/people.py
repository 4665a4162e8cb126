"""Reading people from a CSV file, for the local plugins."""

import csv
from pathlib import Path

from pydantic import ValidationError
from pymongo.errors import BulkWriteError

from accounts.models import LocalPerson
from accounts.plugins.local import local_rankid
from accounts.repository import username_key
from accounts.service import import_people
from callboard.access import open_database
from callboard.errors import CommandError
from common.errors import ConfigurationError
from common.group import Group, load_group
from common.settings import Settings

_COLUMNS = ("id", "username", "rank", "discord")
_REQUIRED = ("id", "username", "rank")
_AT_ONCE = 500


async def import_file(settings: Settings, path: Path) -> int:
    """Add the people of the file, or change them; answers how many.

    The whole file is checked first. Raises CommandError that names the first line with a mistake, or says that
    nobody would see these people.
    """
    group = load_group(settings.config)
    if "local" not in (*group.plugins.identity, group.plugins.ranking):
        raise CommandError(
            f'{settings.config} names the plugin "local" neither for identity nor for ranking: '
            "nobody would see these people."
        )
    lines = list(_read(path, group).items())
    async with open_database(settings, "accounts") as database:
        for start in range(0, len(lines), _AT_ONCE):
            part = lines[start : start + _AT_ONCE]
            try:
                await import_people(database, group, [person for _, person in part])
            except BulkWriteError as error:
                taken = error.details["writeErrors"][0].get("keyValue", {}).values()
                line = next(
                    (line for line, one in part if {username_key(one.username), one.discord} & set(taken)),
                    part[0][0],
                )
                raise CommandError(
                    f"{path}: line {line}: somebody else has this username or Discord id; "
                    f"imported so far: {start} people."
                ) from None
    return len(lines)


def _read(path: Path, group: Group) -> dict[int, LocalPerson]:
    """The person of each line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            given = [name.strip() for name in rows.fieldnames or ()]
            if missing := [name for name in _REQUIRED if name not in given]:
                raise CommandError(
                    f"{path}: line 1: expected the columns {','.join(_COLUMNS)}; missing: {', '.join(missing)}."
                )
            rows.fieldnames = given
            return _check(path, [(rows.line_num, row) for row in rows], group)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{path} is no CSV file in UTF-8: {error}.") from error


def _check(path: Path, rows: list[tuple[int, dict[str, str | None]]], group: Group) -> dict[int, LocalPerson]:
    people: dict[int, LocalPerson] = {}
    seen: dict[tuple[str, object], int] = {}
    for line, row in rows:
        given = {name: (row.get(name) or "").strip() for name in _COLUMNS}
        try:
            person = LocalPerson.model_validate({name: value for name, value in given.items() if value})
            local_rankid(group, person.rank)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            reason = "expected a value" if first["type"] == "missing" else first["msg"]
            raise CommandError(f"{path}: line {line}: {field}: {reason}.") from None
        except ConfigurationError as error:
            raise CommandError(f"{path}: line {line}: rank: {error}") from None
        for name, value in (
            ("id", person.id),
            ("username", username_key(person.username)),
            ("discord", person.discord),
        ):
            if value is not None and (before := seen.setdefault((name, value), line)) != line:
                raise CommandError(f"{path}: line {line}: {name}: line {before} has the same.")
        people[line] = person
    return people
