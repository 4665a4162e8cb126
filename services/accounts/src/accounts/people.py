"""The people that the local plugins know: those of the configuration, imports, and who leaves.

Where the local plugins name or rank, what they know is in the accounts too, in the same transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from accounts.models import Configured, KnownPerson, LocalPerson, PersonChange
from accounts.plugins.links import KNOW_LINKS_ONLY
from accounts.plugins.local import configured_people, local_rankid
from accounts.ranks import record_ranks
from accounts.repository import Accounts, People, username_key
from common.group import Group
from common.mongo import Database, Session, is_own_error, transaction
from common.outbox import Outbox
from common.plugins import PluginContext

_LOCAL = "local"

_AT_ONCE = 200
"""How many people one transaction changes: on a machine with five times its load, 500 took longer than 2 s."""

_TRIES = 10


class Imported(NamedTuple):
    """How many people an import added, changed and left as they were."""

    added: int
    changed: int
    unchanged: int


class Conflict(NamedTuple):
    """Why one of the people to import cannot be: which of them, the field and the reason."""

    which: int
    field: str
    reason: str


class ImportRefused(Exception):
    """Some of the people cannot be imported, and nobody was."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        super().__init__("; ".join(f"{field}: {reason}" for _, field, reason in conflicts))
        self.conflicts = conflicts


async def import_people(database: Database, group: Group, people: Sequence[PersonChange]) -> Imported:
    """Add people for the local plugins, or change them; visible at once.

    An account is changed as far as it shows what these plugins say: the rank where they are the ones who rank,
    the name where they are asked for it first. Usernames and Discord accounts may change hands among these
    people, whose ids differ. Raises ImportRefused, and ConfigurationError for an unknown rank, before anybody is
    changed. What is interrupted later is completed by the same import, made again.
    """
    given = {person.id: _given(group, person) for person in people}
    known = People(database)
    before: dict[int, KnownPerson] = {}
    parts = [people[start : start + _AT_ONCE] for start in range(0, len(people), _AT_ONCE)]
    for part in parts:
        before |= await known.concerned(part)
    if conflicts := find_conflicts(people, before):
        raise ImportRefused(conflicts)
    steps = [
        await transaction(database, partial(_import_part, database, group, part, given, number * _AT_ONCE))
        for number, part in enumerate(parts)
    ]
    return Imported(*(sum(counts) for counts in zip(*steps, strict=True)))


async def _import_part(
    database: Database,
    group: Group,
    part: Sequence[PersonChange],
    given: Mapping[int, Mapping[str, Any]],
    first: int,
    session: Session,
) -> Imported:
    """Import those people of an import, the first of whom has this index; `given` says what each of all gets."""
    known = People(database)
    before = await known.concerned(part, session)
    ids = {person.id for person in part}
    # Somebody else may have changed a person since the whole was checked.
    others = {user: one for user, one in before.items() if user in ids or user not in given}
    if conflicts := find_conflicts(part, others):
        raise ImportRefused([one._replace(which=first + one.which) for one in conflicts])
    after = [
        before[person.id].model_copy(update=given[person.id])
        if person.id in before
        else KnownPerson(id=person.id, **given[person.id])
        for person in part
    ]
    # Who gets another name or Discord account in a later part is without it until then.
    names = {username_key(one.username) for one in after if one.username is not None}
    discords = {one.discord for one in after if one.discord is not None}
    waiting = [
        one.model_copy(
            update={
                "username": None if one.username and username_key(one.username) in names else one.username,
                "discord": None if one.discord in discords else one.discord,
            }
        )
        for user, one in before.items()
        if user in given and user not in ids
    ]
    changed = [person for person in after if person != before.get(person.id)]
    if changed:
        await known.put_all(session, [*waiting, *changed], before)
    await _follow(session, group, database, after)
    added = sum(person.id not in before for person in after)
    return Imported(added, len(changed) - added, len(after) - len(changed))


def find_conflicts(people: Sequence[PersonChange], before: Mapping[int, KnownPerson]) -> list[Conflict]:
    """What speaks against the import of these people, who have different ids, where those were known before."""
    after: dict[int, KnownPerson | PersonChange] = dict(before)
    after |= {
        person.id: before[person.id].model_copy(update=_named_fields(person))
        if person.id in before
        else person
        for person in people
    }
    holders: dict[str, dict[object, list[int]]] = {"username": {}, "discord": {}}
    for one in after.values():
        if one.username is not None:
            holders["username"].setdefault(username_key(one.username), []).append(one.id)
        if one.discord is not None:
            holders["discord"].setdefault(one.discord, []).append(one.id)
    found = []
    for index, person in enumerate(people):
        if person.id not in before:
            found += [
                Conflict(index, field, f"required, as nobody with the id {person.id} is known yet")
                for field, value in (("username", person.username), ("rank", person.rank))
                if value is None
            ]
        for field, value in (
            ("username", username_key(person.username) if person.username else None),
            ("discord", person.discord),
        ):
            others = [user for user in holders[field].get(value, ()) if user != person.id]
            if others:
                found.append(
                    Conflict(
                        index,
                        field,
                        f"the person with the id {others[0]} has it; give that person another one in the same "
                        f"import, or run `callboard people remove {others[0]}` first",
                    )
                )
    return found


async def begin(database: Database, group: Group) -> None:
    """At the start: the people of the configuration are known, and everybody above the lowest rank has an account.

    Only what the configuration says differently from the last start is changed, so that imports and ranks
    that were set stay. A username or Discord account that it gives to another id is taken from whoever has it.
    Safe to repeat, and from several replicas at once. Raises ConfigurationError.
    """
    names_or_ranks = (*group.plugins.identity, group.plugins.ranking)
    if _LOCAL not in names_or_ranks:
        return
    configured = configured_people(PluginContext(group, _LOCAL, database))

    for tried in range(1, _TRIES + 1):
        try:
            await _apply(database, group, configured)
            await _make_accounts(database, group)
            return
        except Exception as error:
            # Another replica, which starts too, was faster: then it is done, or nearly.
            if not is_own_error(error) or tried == _TRIES:
                raise


async def remove_person(database: Database, group: Group, user: int) -> KnownPerson | None:
    """Take somebody out of what the local plugins know; answers who that was, None for nobody.

    Account and history stay. Where the local plugin ranks, the rank is the lowest from now on.
    """
    known = People(database)

    async def work(session: Session) -> KnownPerson | None:
        before = await known.concerned([PersonChange(id=user)], session)
        if user not in before:
            return None
        await known.remove(session, user)
        if group.plugins.ranking == _LOCAL:
            accounts = Accounts(database)
            if user in await accounts.existing(session, [user]):
                lowest = group.ranks.ladder[0].rankid
                ranked = [(user, lowest, before[user].username)]
                await record_ranks(session, group, accounts, Outbox(database), ranked)
        return before[user]

    return await transaction(database, work)


async def _apply(database: Database, group: Group, configured: Sequence[tuple[LocalPerson, int]]) -> None:
    """Make known what the configuration says now and did not say at the last start."""
    known = People(database)
    people = [person for person, _ in configured]
    if not people or not merge(configured, await known.concerned(people)):
        return

    async def work(session: Session) -> None:
        before = await known.concerned(people, session)
        changed = merge(configured, before)
        if changed:
            await known.put_all(session, changed, before)
            await _follow(
                session, group, database, [one for one in changed if not _is_same(one, before.get(one.id))]
            )

    await transaction(database, work)


def merge(
    configured: Iterable[tuple[LocalPerson, int]], before: Mapping[int, KnownPerson]
) -> list[KnownPerson]:
    """The people who change, as they are then, when the configuration says this and these were known before."""
    after = dict(before)
    names: dict[str, int] = {}
    discords: dict[int, int] = {}
    listed = set()
    for person, rankid in configured:
        listed.add(person.id)
        now = Configured(username=person.username, rankid=rankid, discord=person.discord)
        old = before.get(person.id)
        if old is None:
            changes: dict[str, Any] = now.model_dump()
        elif old.configured is None:  # imported before the configuration named them: imports come first
            changes = {}
        else:
            last = old.configured.model_dump()
            changes = {field: value for field, value in now.model_dump().items() if value != last[field]}
        after[person.id] = (
            old.model_copy(update={**changes, "configured": now})
            if old
            else KnownPerson(id=person.id, configured=now, **changes)
        )
        if changes.get("username"):
            names[username_key(person.username)] = person.id
        if changes.get("discord") is not None:
            discords[changes["discord"]] = person.id
    for user, one in after.items():
        lost: dict[str, Any] = {}
        if one.username is not None and names.get(username_key(one.username), user) != user:
            lost["username"] = None
        if one.discord is not None and discords.get(one.discord, user) != user:
            lost["discord"] = None
        if lost and one.configured and user not in listed:  # should it be listed again, it gets them back
            lost["configured"] = one.configured.model_copy(update=lost)
        after[user] = one.model_copy(update=lost)
    return [one for user, one in after.items() if one != before.get(user)]


async def _make_accounts(database: Database, group: Group) -> None:
    """Give everybody whom the local plugin ranks above the lowest rank an account."""
    if group.plugins.ranking != _LOCAL:
        return
    known, accounts = People(database), Accounts(database)
    after = 0
    while page := await known.ranked_above(group.ranks.ladder[0].rankid, after, _AT_ONCE):
        after = page[-1].id
        if len(await accounts.existing(None, [one.id for one in page])) == len(page):
            continue

        async def work(session: Session, page: Sequence[KnownPerson] = page) -> None:
            existing = await accounts.existing(session, [one.id for one in page])
            await _follow(session, group, database, [one for one in page if one.id not in existing])

        await transaction(database, work)


async def _follow(session: Session, group: Group, database: Database, people: Sequence[KnownPerson]) -> None:
    """Bring the accounts in line with what is known of these people now."""
    accounts = Accounts(database)
    found = await accounts.find(session, [person.id for person in people])
    if group.plugins.ranking == _LOCAL:
        lowest = group.ranks.ladder[0].rankid
        ranked = []
        for one in people:
            account = found.get(one.id)
            if account is None:
                is_due = one.rankid > lowest
            else:
                is_due = account.rankid != one.rankid or not account.rank_version
            if is_due:
                ranked.append((one.id, one.rankid, one.username))
        if ranked:
            await record_ranks(session, group, accounts, Outbox(database), ranked)
        new = {user for user, *_ in ranked if user not in found}
    else:
        new = set()
    here = {one.id: one.username for one in people if one.id in found or one.id in new}
    if next((name for name in group.plugins.identity if name not in KNOW_LINKS_ONLY), None) == _LOCAL:
        current = {user: account.username for user, account in found.items()}
        others = {user: name for user, name in here.items() if name != current.get(user)}
        if others:
            await accounts.rename_all(session, others)
    elif names := {user: name for user, name in here.items() if user in new and name is not None}:
        await accounts.suggest_names(session, names)


def _given(group: Group, person: PersonChange) -> dict[str, Any]:
    """What an import says of a person, as the local plugins keep it."""
    given = _named_fields(person)
    if person.rank is not None:
        given["rankid"] = local_rankid(group, person.rank)
    return given


def _named_fields(person: PersonChange) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if person.username is not None:
        given["username"] = person.username
    if "discord" in person.model_fields_set:
        given["discord"] = person.discord
    return given


def _is_same(person: KnownPerson, before: KnownPerson | None) -> bool:
    """Whether nothing but what the configuration says has changed."""
    return before is not None and person == before.model_copy(update={"configured": person.configured})
