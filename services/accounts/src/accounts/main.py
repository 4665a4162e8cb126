"""The accounts service: `python -m accounts.main`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from accounts import api, internal
from accounts.people import begin
from accounts.plugins import IDENTITY, RANKING, Identity, OutsideRanking, Ranking
from accounts.ranks import REFRESHERS, Ranks
from accounts.repository import COLLECTIONS
from accounts.service import AccountsService
from accounts.sync import Walker
from common.app import serve
from common.events import CertificationGranted, CertificationRevoked, RankChanged, ShiftLogged
from common.mongo import when_there
from common.service import Chassis, Service
from common.settings import Settings


@asynccontextmanager
async def open_service(chassis: Chassis[Settings]) -> AsyncIterator[AccountsService]:
    """The use cases, on the plugins that the configuration names."""
    identities = await chassis.plugins(IDENTITY)
    (ranking,) = (await chassis.plugins(RANKING)).values()
    first = partial(begin, chassis.database, chassis.group)
    await when_there(first, chassis.settings.storage)
    yield await assemble(chassis, list(identities.values()), ranking)


async def assemble(
    chassis: Chassis[Settings], identities: Sequence[Identity], ranking: Ranking
) -> AccountsService:
    """The use cases on these plugins, with the work in the background that belongs to them."""
    group, database = chassis.group, chassis.database
    ranks = Ranks(group, database, chassis.outbox, identities, ranking)
    for _ in range(REFRESHERS):
        await chassis.background(ranks.keep_young)
    if isinstance(ranking, OutsideRanking):
        walker = Walker(group, database, ranks, ranking)
        # Before anybody asks: without a list, strangers are refused.
        await when_there(walker.learn, chassis.settings.storage)
        await chassis.background(walker.run)
    return AccountsService(group, database, chassis.outbox, identities, ranks, chassis.settings.consumer)


SERVICE = Service(
    "accounts",
    Settings,
    open_service,
    routers=[api.router, internal.router],
    collections=COLLECTIONS,
    publishes=[RankChanged],
    handles={
        ShiftLogged: AccountsService.record_shifts,
        CertificationGranted: AccountsService.record_certifications,
        CertificationRevoked: AccountsService.record_certifications,
    },
    plugin_points=[IDENTITY, RANKING],
)


if __name__ == "__main__":
    serve(SERVICE)
