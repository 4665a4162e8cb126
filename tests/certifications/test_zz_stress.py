import asyncio, collections
from tests.support import unique_id
from tests.certifications.builders import park as open_park
from tests.applications.builders import park as apps_park

async def test_certs(servers):
    c = collections.Counter()
    async with open_park(servers) as a, open_park(servers) as b:
        b.accounts._members = a.accounts._members
        for _ in range(150):
            m = a.accounts.member()
            got = await asyncio.gather(*(x.grant(m) for x in (a, b) * 4))
            c[tuple(sorted(g.status_code for g in got))] += 1
    print(c)
    assert len(c) == 1

async def test_apps(servers):
    c = collections.Counter(); ev = collections.Counter()
    async with apps_park(servers) as a, apps_park(servers, a.accounts) as b:
        for _ in range(150):
            u = unique_id(); a.accounts.knows(u)
            got = await asyncio.gather(*(x.approve(u) for x in (a, b) * 4))
            c[tuple(sorted(g.status_code for g in got))] += 1
            ev[len(await a.events(u, "application_approved"))] += 1
        print(c, ev, collections.Counter(collections.Counter(a.accounts.ranked).values()))
