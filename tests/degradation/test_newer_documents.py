"""A database that a newer version has written to: fields that this one does not know are read past, and kept."""

from tests.support import wait_until
from tests.support.accounting import ENDED_AT
from tests.support.machine import PATIENCE, SERVICES, Machine, machine
from tests.support.visitors import Visitors, visitors

DATABASES = (*SERVICES, "gateway")
NEWER = {"of_a_newer_version": {"a": [1, {"b": None}]}}


async def plant(park: Machine) -> set[str]:
    """Give every document there is a field that nobody knows; answers in which collections there are any."""
    found = set()
    async with park.mongodb() as client:
        for name in DATABASES:
            for collection in await client[name].list_collection_names(filter={"type": "collection"}):
                changed = await client[name][collection].update_many({}, {"$set": NEWER})
                if changed.matched_count:
                    found.add(f"{name}.{collection}")
        held = {"certifications.tot": {"$exists": True}}
        for name, collection in (("accounts", "accounts"), ("shifts", "members")):
            change = {"$set": {"certifications.tot.of_a_newer_version": 1}}
            assert (await client[name][collection].update_many(held, change)).matched_count
    return found


async def shows(guest: Visitors, user: int, points: int, certifications: list[str]) -> None:
    """Return once /profile shows this."""

    async def is_shown() -> bool:
        shown = await guest.shown(user)
        return (shown["points"], shown["certifications"]) == (points, certifications)

    await wait_until(is_shown, 90)


async def test_documents_with_fields_of_a_newer_version_are_read_and_what_is_unknown_in_them_is_kept() -> (
    None
):
    async with machine(patience=PATIENCE) as park, visitors(park) as guest:
        await park.start(*SERVICES, "gateway")
        worker, guests = await park.person(), await park.people(2, "Guest")
        assert (await guest.log(worker.id, key="first")).status_code == 200
        assert (await guest.change("grant", worker.username)).status_code == 200
        url = (await guest.upload(guests[0].id)).json()["url"]
        assert (await guest.approve(guests[0].id)).status_code == 200
        await shows(guest, worker.id, 10, ["tot"])
        await park.stop(*SERVICES, "gateway")
        assert await plant(park) >= {
            *("accounts.accounts", "accounts.ledger", "accounts.people", "accounts.outbox", "gateway.keys"),
            *("certifications.certifications", "applications.applications", "applications.documents"),
            *("shifts.shifts", "shifts.timesheets", "shifts.members", "shifts.outbox"),
        }
        await park.start(*SERVICES, "gateway")

        again = await guest.log(worker.id, key="first")
        assert (again.status_code, again.headers.get("idempotent-replayed")) == (200, "true")
        other = await guest.log(worker.id, key="second", ended_at=ENDED_AT - 3600)
        assert other.status_code == 200
        assert (await guest.join(worker.id)).json()["certifications"] == "tot"
        assert (await guest.change("grant", worker.username)).status_code == 400
        assert (await guest.change("revoke", worker.username)).status_code == 200
        assert (await guest.read(url.rpartition("/")[2])).text
        assert (await guest.approve(guests[0].id)).status_code == 400
        assert (await guest.upload(guests[1].id)).status_code == 200
        assert (await guest.approve(guests[1].id)).status_code == 200
        await shows(guest, worker.id, 20, [])
        async with park.mongodb() as client:
            for name, collection, whose in (
                ("certifications", "certifications", {"user": worker.id}),
                ("accounts", "accounts", {"id": worker.id}),
                ("shifts", "members", {"_id": worker.id}),
                ("shifts", "timesheets", {"_id": worker.id}),
            ):
                found = await client[name][collection].find_one(whose)
                assert found
                assert found.get("of_a_newer_version") == NEWER["of_a_newer_version"], f"{name}.{collection}"
