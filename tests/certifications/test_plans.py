"""No query of a request reads a whole collection or sorts in memory: cost does not grow with data."""

import pytest

from tests.certifications.builders import park
from tests.support import Servers
from tests.support.plans import listen, slow_plans


async def test_every_query_of_certifications_uses_an_index(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = listen(monkeypatch)
    async with park(servers) as here:
        member = here.accounts.member()
        assert (await here.grant(member)).status_code == 200
        assert (await here.revoke(member)).status_code == 200
        assert '"held":false' in await here.held(member)
        assert sent.targets >= {
            ("find", "certifications"),
            ("update", "certifications"),
            ("find", "outbox"),
        }
        assert await slow_plans(here.database, sent) == []
