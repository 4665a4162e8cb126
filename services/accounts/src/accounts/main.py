"""The accounts service: `python -m accounts.main`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from accounts import api, internal
from accounts.people import begin
from accounts.plugins import Identity, OutsideRanking, Ranking
from accounts.ranks import REFRESHERS, Ranks
from accounts.repository import COLLECTIONS
from accounts.service import AccountsService
from accounts.sync import Walker
from common.app import Chassis, create_app
from common.events import CertificationGranted, CertificationRevoked, Event, ShiftLogged
from common.messaging.handling import Handler
from common.mongo import when_there
from common.outgoing.local import Apps
from common.plugins import load
from common.server import run
from common.settings import Settings, read_settings

NAME = "accounts"

HANDLERS: Mapping[type[Event], Handler] = {
    ShiftLogged: AccountsService.record_shifts,
    CertificationGranted: AccountsService.record_certifications,
    CertificationRevoked: AccountsService.record_certifications,
}


def create(settings: Settings, apps: Apps | None = None) -> FastAPI:
    """The service; `apps` are the other services of this process, if any."""
    return create_app(
        NAME,
        settings,
        routers=[api.router, internal.router],
        open_service=open_service,
        collections=COLLECTIONS,
        handlers=HANDLERS,
        apps=apps,
    )


@asynccontextmanager
async def open_service(chassis: Chassis) -> AsyncIterator[AccountsService]:
    """The use cases, on the plugins that the configuration names."""
    group, database = chassis.group, chassis.database
    identities = [
        await chassis.stack.enter_async_context(load("callboard.identity", name, group, database))
        for name in group.plugins.identity
    ]
    ranking = await chassis.stack.enter_async_context(
        load("callboard.ranking", group.plugins.ranking, group, database)
    )
    await begin(database, group)
    yield await assemble(chassis, identities, ranking)


async def assemble(chassis: Chassis, identities: Sequence[Identity], ranking: Ranking) -> AccountsService:
    """The use cases on these plugins, with the work in the background that belongs to them."""
    group, database = chassis.group, chassis.database
    ranks = Ranks(group, database, chassis.outbox, identities, ranking)
    for _ in range(REFRESHERS):
        await chassis.background(ranks.keep_young)
    if isinstance(ranking, OutsideRanking):
        walker = Walker(group, database, ranks, ranking)
        await when_there(walker.learn)  # before anybody asks: without a list, strangers are refused
        await chassis.background(walker.run)
    return AccountsService(group, database, chassis.outbox, identities, ranks, chassis.settings.consumer)


if __name__ == "__main__":
    own_settings = read_settings(Settings)
    run(create(own_settings), own_settings, NAME)
