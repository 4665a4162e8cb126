"""No query of a request reads a whole collection or sorts in memory: cost does not grow with data."""

import pytest

from tests.applications.builders import begin_approval, let_lease_run_out, park
from tests.support import Servers, unique_id
from tests.support.plans import listen, slow_plans


async def test_every_query_of_applications_uses_an_index(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = listen(monkeypatch)
    async with park(servers) as here:
        uploaded, abandoned = unique_id(), unique_id()
        for user in (uploaded, abandoned):
            here.accounts.knows(user)
        answer = await here.upload(uploaded)
        assert (await here.read(answer.json()["url"])).status_code == 200
        key = f"approve-{uploaded}"
        for _ in range(2):
            assert (await here.approve(uploaded, key=key)).status_code == 200
        for _ in range(2):
            assert (await here.upload(uploaded, key=key)).status_code == 200
        await begin_approval(here.database, abandoned)
        await let_lease_run_out(here.database, abandoned)
        assert (await here.approve(abandoned, key=f"approve-{abandoned}")).status_code in (200, 400)
        assert sent.targets >= {
            ("find", "applications"),
            ("findAndModify", "applications"),
            ("update", "applications"),
            ("find", "documents"),
            ("find", "idempotency"),
            ("update", "idempotency"),
        }
        assert await slow_plans(here.database, sent) == []
