"""Which person a Discord account belongs to: asked of Bloxlink and RoVer, and known from before while they are away."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accounts.main import SERVICE
from accounts.models import LocalPerson, MemberQuery, ProfileQuery
from accounts.people import import_people
from accounts.plugins import IDENTITY
from accounts.plugins.links import LinkIdentity
from accounts.plugins.local import LocalRanking
from accounts.plugins.memory import Memory
from accounts.ranks import Ranks
from accounts.service import AccountsService
from common.actors import Actor
from common.errors import ConfigurationError, Unavailable, UserNotFound
from common.group import Group, load_group
from common.messaging.limits import ConsumerLimits
from common.mongo import Database, connect, migrate
from common.outbox import Outbox
from common.plugins import Examinable, Finding, PluginContext, load
from common.settings import Settings
from tests.standins import Fault, Forged
from tests.standins.bloxlink import Bloxlink, bloxlink
from tests.standins.rover import Rover, rover
from tests.support import ROOT, Servers, settings, unique_id
from tests.support.plans import listen, slow_plans

Standin = Bloxlink | Rover
BOTH = ("bloxlink", "rover")


@dataclass
class Links:
    """The use cases on both plugins, after which the local people are asked."""

    service: AccountsService
    database: Database
    group: Group
    bloxlink: Bloxlink
    rover: Rover
    plugins: Mapping[str, Any]

    def standin(self, name: str) -> Standin:
        """The company that this plugin asks."""
        return self.bloxlink if name == "bloxlink" else self.rover

    async def person(self, **given: Any) -> int:
        """Somebody whose name is known here."""
        user = unique_id()
        person = LocalPerson(**{"id": user, "username": f"Linked_{user}", "rank": "Guest"} | given)
        await import_people(self.database, self.group, [person])
        return user

    async def linked(self, name: str = "bloxlink") -> tuple[int, int]:
        """Somebody who has a Discord account there: both ids."""
        user, discord = await self.person(), unique_id()
        self.standin(name).links[discord] = user
        return user, discord

    async def user(self, discord: int) -> int:
        """Whose profile is shown for this Discord account."""
        profile, _ = await self.service.profile(ProfileQuery(discord=discord))
        return profile.id

    async def stored(self, discord: int) -> tuple[int, str] | None:
        """The link that is stored of this Discord account, and which plugin learnt it."""
        found = await self.database["links"].find_one({"_id": discord})
        return (found["user"], found["plugin"]) if found else None


def configured(standins: Mapping[str, Standin], order: Sequence[str]) -> Group:
    """The shipped configuration with the plugins on these stand-ins."""
    group = load_group(ROOT / "callboard.toml")
    options = {name: {"guild": standin.guild, "url": standin.url} for name, standin in standins.items()}
    plugins = group.plugins.model_copy(update={"identity": tuple(order), "options": options})
    return group.model_copy(update={"plugins": plugins})


@asynccontextmanager
async def open_links(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, order: Sequence[str] = (*BOTH, "local")
) -> AsyncIterator[Links]:
    """Both companies without links, and the use cases on them; their limits are not what is tested, nor ours."""
    monkeypatch.setattr("accounts.plugins.links._SECONDS", 30.0)
    monkeypatch.setattr("accounts.plugins.bloxlink._CALLS_PER_MINUTE", 60_000)
    monkeypatch.setattr("accounts.plugins.rover._CALLS_PER_MINUTE", 60_000)
    client, database = connect(settings(Settings, servers), "accounts")
    async with client, bloxlink() as one, rover() as other, AsyncExitStack() as stack:
        await migrate(database, SERVICE.all_collections)
        monkeypatch.setenv("CALLBOARD_BLOXLINK_KEY", one.key)
        monkeypatch.setenv("CALLBOARD_ROVER_KEY", other.key)
        group = configured({"bloxlink": one, "rover": other}, order)
        plugins = {
            name: await stack.enter_async_context(load(IDENTITY, name, group, database)) for name in order
        }
        outbox = Outbox(database)
        identities = list(plugins.values())
        ranks = Ranks(group, database, outbox, identities, LocalRanking(PluginContext(group, "", database)))
        service = AccountsService(group, database, outbox, identities, ranks, ConsumerLimits())
        yield Links(service, database, group, one, other, plugins)


@pytest.fixture
async def links(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Links]:
    """Bloxlink first."""
    async with open_links(servers, monkeypatch) as here:
        yield here


def forget_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered in the process."""
    monkeypatch.setattr("accounts.plugins.memory.KNOWN_SECONDS", 0.0)
    monkeypatch.setattr("accounts.plugins.memory.UNKNOWN_SECONDS", 0.0)


# ------------------------------------------------------------------------------ what a company answers


@pytest.mark.parametrize("name", BOTH)
async def test_a_discord_account_leads_to_the_person(links: Links, name: str) -> None:
    user, discord = await links.linked(name)
    assert await links.user(discord) == user


@pytest.mark.parametrize("name", BOTH)
async def test_ids_and_names_are_not_asked_of_them(links: Links, name: str) -> None:
    assert await links.plugins[name].by_id(1) is None
    assert await links.plugins[name].by_username("Roblox") is None
    assert not links.standin(name).requests


@pytest.mark.parametrize("name", BOTH)
async def test_both_spellings_and_numbers_as_text_are_read(links: Links, name: str) -> None:
    for body in ({"robloxID": "17"}, {"robloxID": 17}, {"robloxId": "17"}, {"robloxId": 17}):
        links.standin(name).faults.next(Forged(200, body))
        assert await links.plugins[name].by_discord(unique_id()) == 17


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    "body",
    [
        {"error": "User not found."},
        {"errorCode": "user_not_found", "message": "The user is not verified.", "robloxId": None},
        *({"robloxID": value} for value in (None, "", 0)),
        *({"robloxId": value, "cachedUsername": None} for value in (None, "", "0")),
        {},
    ],
    ids=str,
)
async def test_a_company_that_says_not_linked_with_200_says_not_linked(
    links: Links, name: str, body: dict[str, object]
) -> None:
    _, discord = await links.linked(name)
    await links.plugins[name].by_discord(discord)
    links.plugins[name]._memory = Memory()
    links.standin(name).faults.next(Forged(200, body))
    with pytest.raises(UserNotFound):
        await links.user(discord)
    assert await links.stored(discord) is None


async def test_what_is_no_id_is_no_answer_and_is_not_kept(links: Links) -> None:
    for value in ("abc", -1, 2**63, 1.5, True, False, [], [1], {"id": 1}, "1; drop"):
        discord = unique_id()
        links.bloxlink.faults.next(Forged(200, {"robloxId": value}))
        with pytest.raises(Unavailable):
            await links.plugins["bloxlink"].by_discord(discord)
        assert await links.stored(discord) is None, value
    assert len(links.bloxlink.requests) == 10


@pytest.mark.parametrize(
    "fault",
    [
        Fault.BROKEN,
        Fault.GARBAGE,
        Fault.CLOSED,
        Fault.HANG,
        Forged(200, b"[]"),
        Forged(200, b"null"),
        Forged(302, headers={"location": "/"}),
        Forged(400, {"error": "no"}),
        Forged(401),
        Forged(403, {"message": "no"}),
        Forged(404, b"<!DOCTYPE html><title>Not Found</title>"),
    ],
    ids=str,
)
async def test_no_answer_is_not_the_same_as_no_link(
    links: Links, monkeypatch: pytest.MonkeyPatch, fault: Fault | Forged
) -> None:
    monkeypatch.setattr("accounts.plugins.links._SECONDS", 0.3)
    discord = unique_id()
    links.rover.faults.always(fault)
    for _ in range(2):  # nor is it remembered as that
        with pytest.raises(Unavailable):
            await links.plugins["rover"].by_discord(discord)


@pytest.mark.parametrize("name", BOTH)
async def test_a_key_that_is_not_accepted_is_told_once_in_the_log_and_never_shown(
    links: Links, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    key, links.standin(name).key = links.standin(name).key, "another"
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await links.plugins[name].by_discord(unique_id())
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"CALLBOARD_{name.upper()}_KEY (401 " in told.getMessage()
    assert key not in caplog.text


@pytest.mark.parametrize("name", BOTH)
async def test_whoever_is_asked_too_often_is_left_alone_for_as_long_as_it_says(
    links: Links, name: str
) -> None:
    user, discord = await links.linked(name)
    standin = links.standin(name)
    standin.faults.next(Fault.LIMITED)
    assert await links.plugins[name].by_discord(discord) == user
    first, second = standin.requests
    assert second.at - first.at >= standin.faults.retry_after

    standin.faults.retry_after = 60
    standin.faults.next(Fault.LIMITED)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await links.plugins[name].by_discord(unique_id())
    assert len(standin.requests) == 3
    assert time.monotonic() - began < 20


async def test_each_replica_takes_its_part_of_the_calls(links: Links) -> None:
    options = {**links.group.plugins.options["rover"], "replicas": 20}
    plugins = links.group.plugins.model_copy(update={"options": {"rover": options}})
    group = links.group.model_copy(update={"plugins": plugins})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accounts.plugins.rover._CALLS_PER_MINUTE", 30)
        plugin: LinkIdentity = load(IDENTITY, "rover", group, links.database)
    async with plugin:
        assert await plugin.by_discord(unique_id()) is None
        with pytest.raises(Unavailable):
            await plugin.by_discord(unique_id())
    assert len(links.rover.requests) == 1


# ------------------------------------------------------------------------------------------ remembering


@pytest.mark.parametrize("name", BOTH)
async def test_a_link_is_remembered_and_so_is_that_there_is_none(links: Links, name: str) -> None:
    user, discord = await links.linked(name)
    stranger = unique_id()
    for _ in range(3):
        assert await links.plugins[name].by_discord(discord) == user
        assert await links.plugins[name].by_discord(stranger) is None
    assert len(links.standin(name).requests) == 2


@pytest.mark.parametrize("name", BOTH)
async def test_a_link_that_moved_is_seen_after_a_while(
    links: Links, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    forget_at_once(monkeypatch)
    _, discord = await links.linked(name)
    await links.user(discord)
    other = await links.person()
    links.standin(name).links[discord] = other
    assert await links.user(discord) == other
    assert await links.stored(discord) == (other, name)


@pytest.mark.parametrize("name", BOTH)
async def test_a_new_link_is_seen_soon(links: Links, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("accounts.plugins.memory.UNKNOWN_SECONDS", 0.0)
    user, discord = await links.person(), unique_id()
    assert await links.plugins[name].by_discord(discord) is None
    links.standin(name).links[discord] = user
    assert await links.plugins[name].by_discord(discord) == user


async def test_those_who_ask_for_one_discord_account_at_once_share_the_call(links: Links) -> None:
    user, discord = await links.linked()
    links.bloxlink.faults.next(Fault.SLOW)
    assert await asyncio.gather(*(links.user(discord) for _ in range(20))) == [user] * 20
    assert len(links.bloxlink.requests) == 1


async def test_a_person_may_have_several_discord_accounts(links: Links) -> None:
    user, first = await links.linked()
    second = unique_id()
    links.bloxlink.links[second] = user
    assert [await links.user(first), await links.user(second)] == [user, user]


# -------------------------------------------------------------------------- the order, and who is away


async def test_the_first_in_the_configured_order_is_asked_first(links: Links) -> None:
    user, discord = await links.linked("bloxlink")
    links.rover.links[discord] = await links.person()
    assert await links.user(discord) == user
    assert not links.rover.requests


async def test_the_next_is_asked_when_the_first_knows_of_no_link(links: Links) -> None:
    user, discord = await links.linked("rover")
    assert await links.user(discord) == user
    assert len(links.bloxlink.requests) == 1


async def test_a_discord_account_that_nobody_knows_is_not_found(links: Links) -> None:
    with pytest.raises(UserNotFound):
        await links.user(unique_id())


@pytest.mark.parametrize(("away", "other"), [BOTH, BOTH[::-1]])
async def test_while_one_is_away_the_other_can_tell_who_it_is_but_not_that_it_is_nobody(
    links: Links, away: str, other: str
) -> None:
    user, discord = await links.linked(other)
    links.standin(away).faults.always(Fault.AWAY)
    assert await links.user(discord) == user
    with pytest.raises(Unavailable):
        await links.user(unique_id())


async def test_an_imported_discord_account_needs_none_of_them(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_links(servers, monkeypatch, ("local", *BOTH)) as links:
        discord = unique_id()
        user = await links.person(discord=discord)
        assert await links.user(discord) == user
        assert not links.bloxlink.requests
        assert await links.stored(discord) is None


async def test_an_imported_discord_account_is_known_while_all_of_them_are_away(links: Links) -> None:
    discord = unique_id()
    user = await links.person(discord=discord)
    for name in BOTH:
        links.standin(name).faults.always(Fault.AWAY)
    assert await links.user(discord) == user


# -------------------------------------------------------------------------------- known from before


@pytest.mark.parametrize("name", BOTH)
async def test_a_link_known_from_before_is_served_while_its_company_is_away(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with open_links(servers, monkeypatch) as before:
        user, discord = await before.linked(name)
        await before.user(discord)
    async with open_links(servers, monkeypatch) as links:
        links.standin(name).faults.always(Fault.AWAY)
        assert await links.user(discord) == user
        with pytest.raises(Unavailable):
            await links.user(unique_id())


async def test_a_link_that_nobody_told_for_seven_days_is_not_served(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_at_once(monkeypatch)
    user, discord = await links.linked()
    await links.user(discord)
    links.bloxlink.faults.always(Fault.AWAY)
    for days, is_served in ((6.9, True), (7.1, False)):
        read_at = datetime.now(UTC) - timedelta(days=days)
        await links.database["links"].update_one({"_id": discord}, {"$set": {"read_at": read_at}})
        if is_served:
            assert await links.user(discord) == user
        else:
            with pytest.raises(Unavailable):
                await links.user(discord)


async def test_what_a_company_says_now_goes_before_what_another_said_before(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_at_once(monkeypatch)
    _, discord = await links.linked("bloxlink")
    await links.user(discord)
    links.bloxlink.faults.always(Fault.AWAY)
    other = await links.person()
    links.rover.links[discord] = other
    assert await links.user(discord) == other


@pytest.mark.parametrize("name", BOTH)
async def test_a_link_that_ended_is_not_served_later(
    links: Links, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    forget_at_once(monkeypatch)
    _, discord = await links.linked(name)
    await links.user(discord)
    del links.standin(name).links[discord]
    with pytest.raises(UserNotFound):
        await links.user(discord)
    assert await links.stored(discord) is None
    links.standin(name).faults.always(Fault.AWAY)
    with pytest.raises(Unavailable):
        await links.user(discord)


async def test_that_one_knows_of_no_link_ends_no_link_of_the_other(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_at_once(monkeypatch)
    user, discord = await links.linked("rover")
    await links.user(discord)
    links.rover.faults.always(Fault.AWAY)
    assert await links.user(discord) == user


async def test_what_a_plugin_learnt_that_is_not_in_use_any_more_is_not_served(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_links(servers, monkeypatch) as before:
        _, discord = await before.linked("bloxlink")
        await before.user(discord)
    async with open_links(servers, monkeypatch, ("rover", "local")) as links:
        links.rover.faults.always(Fault.AWAY)
        with pytest.raises(Unavailable):
            await links.user(discord)


async def test_mongodb_forgets_a_link_that_nobody_told_for_30_days(links: Links) -> None:
    indexes = await links.database["links"].index_information()
    assert indexes["forget_old"]["key"] == [("read_at", 1)]
    assert indexes["forget_old"]["expireAfterSeconds"] == 30 * 24 * 3600


async def test_every_query_uses_an_index(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_at_once(monkeypatch)
    sent = listen(monkeypatch)
    async with open_links(servers, monkeypatch) as links:
        _, discord = await links.linked()
        await links.user(discord)
        links.bloxlink.faults.next(Forged(404))
        with pytest.raises(UserNotFound):
            await links.user(discord)
        links.bloxlink.faults.always(Fault.AWAY)
        with pytest.raises(Unavailable):
            await links.user(discord)
        assert sent.targets >= {("find", "links"), ("update", "links"), ("delete", "links")}
        assert await slow_plans(links.database, sent) == []


# --------------------------------------------------------------------- the configuration, and doctor


async def findings(links: Links, name: str) -> list[Finding]:
    plugin = links.plugins[name]
    assert isinstance(plugin, Examinable)
    return [finding async for finding in plugin.examine()]


@pytest.mark.parametrize("name", BOTH)
async def test_the_doctor_hears_that_the_key_is_accepted_and_nothing_is_kept(links: Links, name: str) -> None:
    accepted, said = await findings(links, name)
    assert accepted.is_right
    assert f"accepts the key for server {links.standin(name).guild}" in accepted.what
    assert "404 " in said.what
    assert await links.stored(links.standin(name).guild) is None


@pytest.mark.parametrize("name", BOTH)
async def test_the_doctor_hears_of_a_wrong_key_and_how_to_mend_it(links: Links, name: str) -> None:
    links.standin(name).key = "another"
    (wrong,) = await findings(links, name)
    assert not wrong.is_right
    assert "(401 " in wrong.what
    assert f"plugins.options.{name}.guild" in wrong.mend
    assert f"CALLBOARD_{name.upper()}_KEY" in wrong.mend


async def test_the_doctor_hears_of_a_company_that_does_not_answer_as_it_should(links: Links) -> None:
    for fault in (Forged(400, {"error": "no"}), Forged(404, b"<!DOCTYPE html>"), Fault.AWAY):
        links.rover.faults.always(fault)
        (wrong,) = await findings(links, "rover")
        assert not wrong.is_right
        links.rover.faults.clear()


@pytest.mark.parametrize("name", BOTH)
async def test_without_a_server_or_a_key_the_start_is_stopped(
    links: Links, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plugins = links.group.plugins.model_copy(update={"options": {}})
    without = links.group.model_copy(update={"plugins": plugins})
    with pytest.raises(ConfigurationError, match=rf"plugins\.options\.{name}\.guild: Field required"):
        load(IDENTITY, name, without, links.database)
    monkeypatch.delenv(f"CALLBOARD_{name.upper()}_KEY")
    with pytest.raises(ConfigurationError, match=f"CALLBOARD_{name.upper()}_KEY"):
        load(IDENTITY, name, links.group, links.database)


async def test_an_actor_whose_link_is_not_told_soon_is_the_discord_account(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.service._ACTOR_SECONDS", 0.1)
    user, (_, discord) = await links.person(), await links.linked()
    links.bloxlink.faults.slow_seconds = 5.0
    links.bloxlink.faults.next(Fault.SLOW)
    found = await links.service.member(MemberQuery(id=user, moderator=f"discord:{discord}"))
    assert (found.id, found.actor) == (user, Actor(by=f"discord:{discord}"))
