"""Once it has read all keys, the gateway reads only those that changed."""

import pytest

from common.background import background
from gateway.keys import KeyTable
from tests.gateway.builders import make_key, open_database, unique_name
from tests.support import Servers, wait_until
from tests.support.plans import listen, slow_plans


async def test_every_query_about_keys_after_the_first_uses_an_index(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = listen(monkeypatch)
    async with open_database(servers) as database:
        keys, name = KeyTable(database), unique_name()
        secret = await make_key(servers, name=name)
        await keys.refresh()
        sent.commands.clear()
        await keys.find(secret)

        async def is_use_noted() -> bool:
            found = await database["keys"].find_one({"name": name, "current": True})
            return found is not None and found["last_used_at"] is not None

        async with background(keys.run):
            await wait_until(is_use_noted)
        assert sent.targets >= {("find", "keys"), ("update", "keys")}
        assert await slow_plans(database, sent) == []
