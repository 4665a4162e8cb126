"""The park that is backed up, and the machine that it is restored on; both are shared by the tests of this folder."""

from collections.abc import AsyncIterator
from functools import partial

import pytest

from common.mongo import Database
from tests.cli.backup.parks import RUNNING, STRANGE, Saved, log_all, traffic, verified
from tests.cli.machine import CALLBOARD, run
from tests.support import unique_id, wait_until
from tests.support.accounting import is_counted, log
from tests.support.machine import PATIENCE, Machine, machine


@pytest.fixture(scope="package")
async def saved(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Saved]:
    """Backed up while shifts are logged, some are in NATS and not handled yet, and some have not reached NATS."""
    async with machine(patience=PATIENCE) as park:
        await park.start(*RUNNING)
        async with park.service("shifts") as client, park.mongodb() as mongodb:
            await mongodb["accounts"]["of_a_plugin"].insert_one(STRANGE)
            handled, waiting, unsent = ([unique_id() for _ in range(20)] for _ in range(3))
            await log_all(park, handled)
            await wait_until(partial(is_counted, park, *handled), 60)
            await park.stop("accounts")
            await log_all(park, waiting)
            await wait_until(lambda: is_sent(mongodb["shifts"]), 60)
            await park.kill("nats-server")
            await log_all(park, unsent)
            file = tmp_path_factory.mktemp("saved") / "backup.gz"
            async with traffic(partial(log, client)):
                answer = await run(CALLBOARD, "backup", str(file), "--data-dir", str(park.folder))
            assert answer.status == 0, answer.error
        await park.start("nats-server", "accounts")
        assert (await verified(park.settings())).is_good
        yield Saved(park, file, [*handled, *waiting, *unsent])


@pytest.fixture(scope="package")
async def fresh() -> AsyncIterator[Machine]:
    """A machine whose databases nobody used yet; it has its first keys."""
    async with machine(patience=PATIENCE) as one:
        yield one


async def is_sent(database: Database) -> bool:
    """Whether no event of this service waits."""
    return await database["outbox"].count_documents({"sent": False}) == 0
