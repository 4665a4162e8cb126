"""A whole Callboard that tells a Discord channel what happens in it."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pymongo import AsyncMongoClient

from common.mongo import Document
from tests.contracts.park import QUESTIONS, Park, changed_config, open_park
from tests.contracts.people import CAST, GUEST, TRAINEE, Person
from tests.standins import Fault
from tests.standins.discord import Discord, Webhook, discord
from tests.support import ROOT, wait_until
from tests.support.machine import Change

NOT_NOTED = "sent but not noted"
CHANGE = Change("notifications.repository:Repository.note_sent", "die before", name=NOT_NOTED)
LIMITS = {
    "bus": {"ack_wait_seconds": 1},
    "consumer": {"longest_pause_seconds": 0.5, "longest_put_off_seconds": 0.5},
    # More than a busy machine takes: what is late is repeated, and told under an id in place of a name.
    "notifications": {"name_seconds": 10, "lease_seconds": 25},
    "discord": {"message_seconds": 5, "per_minute": 600},
}
MODERATOR, SHOWN_MODERATOR = "400000000000000004", "<@400000000000000004>"


@dataclass
class Told:
    """A park and its channel."""

    park: Park
    standin: Discord
    webhook: Webhook
    folder: Path

    @property
    def lines(self) -> list[str]:
        """What stands in the channel, without the times of what was late."""
        return [re.sub(r" \(<t:\d+:T>\)$", "", line) for line in self.webhook.lines]

    async def tells(self, line: str, seconds: float = 30) -> None:
        """Return once the line stands in the channel."""
        try:
            await wait_until(lambda: line in self.lines, seconds)
        except TimeoutError:
            raise AssertionError(f"{line!r} is not in {self.lines}") from None

    def lines_of(self, person: Person) -> list[str]:
        """What stands there of this person."""
        return [line for line in self.lines if f"**{shown(person)}**" in line]

    async def has_noted_all(self) -> bool:
        """Whether all that was sent is noted as sent."""
        url = (self.park.data_dir / "secrets/callboard_mongo_url").read_text("utf-8")
        client: AsyncMongoClient[Document] = AsyncMongoClient(url)
        async with client:
            return await client["notifications"]["sent"].find_one({"sent": False}) is None


def shown(person: Person) -> str:
    """A person's name as it is sent."""
    return person.username.replace("_", r"\_")


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    """All in one process, with every line of its log, and in haste."""
    folder = tmp_path_factory.mktemp("told")
    config = changed_config(folder, {"notify = []": 'notify = ["discord"]'})
    async with discord() as standin:
        webhook = standin.webhook()
        variables = {
            "CALLBOARD_DISCORD_WEBHOOK": webhook.url,
            "CALLBOARD_LOG_LEVEL": "DEBUG",
            "CALLBOARD_TEST_FOLDER": str(folder),
            "CALLBOARD_TEST_CHANGES": json.dumps([vars(CHANGE)]),
            **{f"CALLBOARD_{room.upper()}": json.dumps(limits) for room, limits in LIMITS.items()},
        }
        park = await open_park(
            folder,
            form="told",
            config=config,
            path=str(ROOT / "tests/support/changes"),
            variables=variables,
        )
        try:
            yield Told(park, standin, webhook, folder)
        finally:
            await park.stop()


async def test_what_happens_in_a_park_stands_in_its_channel(told: Told) -> None:
    park, guest, trainee, worker = told.park, *(told.park.person(rank) for rank in (GUEST, TRAINEE, CAST))
    answers = dict.fromkeys(QUESTIONS, "Because")
    url = (await park.upload(guest.id, json=answers)).json()["url"]
    await told.tells(f"**{shown(guest)}** has applied: <{url}>")
    assert (await park.approve(guest.id, moderator=MODERATOR)).status_code == 200
    await told.tells(
        f"**{shown(guest)}** was approved by {SHOWN_MODERATOR} and is now **University Student**."
    )
    assert (await park.grant(trainee.username, moderator=MODERATOR)).status_code == 200
    await told.tells(f"**{shown(trainee)}** was granted **Tower operator** by {SHOWN_MODERATOR}.")
    assert (await park.revoke(trainee.username, moderator="roblox:7")).status_code == 200
    await told.tells(f"**{shown(trainee)}** lost **Tower operator**: revoked by Roblox user 7.")
    now = int(time.time())
    for seconds, ended_at in ((9 * 3600, now - 3600), (600, now - 20), (600, now - 320)):
        assert (await park.log(worker.id, seconds, ended_at=ended_at)).status_code == 200
    await told.tells(f"**{shown(worker)}** logged a long shift: 9 h at The park, points: 540.")
    await told.tells(
        f"**{shown(worker)}** logged a shift that overlaps an earlier one: 10 min at The park, of which 5 min count."
    )
    assert len(told.lines) == 6
    assert all(request.json["allowed_mentions"] == {"parse": []} for request in told.standin.requests)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.AWAY])
async def test_when_discord_fails_all_else_goes_on_and_it_is_told_later(told: Told, fault: Fault) -> None:
    park, guest, trainee, worker = told.park, *(told.park.person(rank) for rank in (GUEST, TRAINEE, CAST))
    told.standin.requests.clear()
    told.standin.faults.always(fault)
    try:
        assert (await park.grant(trainee.username)).status_code == 200
        await wait_until(lambda: bool(told.standin.requests), 30)
        assert (await park.approve(guest.id)).status_code == 200
        assert (await park.log(worker.id, 9 * 3600)).status_code == 200
        await park.has_points(worker.id, 540)
        await park.wait_for_certifications(trainee.id, "tot")
        assert (await park.client.get("/readyz")).status_code == 200
    finally:
        told.standin.faults.clear()
        failed = len(told.standin.requests)
    await told.tells(
        f"**{shown(guest)}** was approved by {SHOWN_MODERATOR} and is now **University Student**.", 60
    )

    def times_sent(since: int = 0) -> list[int]:
        texts = [request.json["content"] for request in told.standin.received()[since:]]
        return [sum(shown(person) in text for text in texts) for person in (guest, trainee, worker)]

    await wait_until(lambda: all(times_sent(failed)), 60)
    await wait_until(told.has_noted_all)
    assert times_sent(failed) == [1, 1, 1]
    lines = [len(told.lines_of(person)) for person in (guest, trainee, worker)]
    assert lines == (times_sent() if fault is Fault.HANG else [1, 1, 1])  # what hung was written


async def test_a_message_that_discord_never_takes_is_put_aside_and_the_others_go_on(told: Told) -> None:
    park, evil, good = told.park, told.park.person(GUEST), told.park.person(GUEST)
    told.webhook.forbidden = shown(evil)
    assert (await park.approve(evil.id)).status_code == 200
    assert (await park.approve(good.id)).status_code == 200
    await told.tells(
        f"**{shown(good)}** was approved by {SHOWN_MODERATOR} and is now **University Student**."
    )

    async def is_put_aside() -> bool:
        listed = await park.callboard("dead-letters", "list")
        return "Discord answered 400: Message blocked by harmful links filter (code 240000)" in listed

    await wait_until(is_put_aside)
    assert not told.lines_of(evil)
    told.webhook.forbidden = ""
    await park.callboard("dead-letters", "replay")
    await told.tells(
        f"**{shown(evil)}** was approved by {SHOWN_MODERATOR} and is now **University Student**."
    )
    assert len(told.lines_of(good)) == len(told.lines_of(evil)) == 1


async def test_a_crash_between_the_message_and_its_note_repeats_that_one_alone(told: Told) -> None:
    park, before, after, last = told.park, *(told.park.person(GUEST) for _ in range(3))
    process = {one["name"]: one["pid"] for one in park.components()}["callboard"]
    line = f"**{{}}** was approved by {SHOWN_MODERATOR} and is now **University Student**."
    assert (await park.approve(before.id)).status_code == 200
    await told.tells(line.format(shown(before)))
    await wait_until(told.has_noted_all)  # or this one would be what is repeated
    (told.folder / f"callboard: {NOT_NOTED}").touch()
    with suppress(httpx.HTTPError):  # the answer may be lost with the process
        await park.approve(after.id)

    def is_back() -> bool:
        return process not in [one["pid"] for one in park.components()]

    await wait_until(is_back, 60)
    await wait_until(lambda: len(told.lines_of(after)) == 2, 60)

    async def serves() -> bool:
        with suppress(httpx.HTTPError):
            return (await park.client.get("/readyz")).status_code == 200
        return False

    await wait_until(serves, 30)
    assert (await park.approve(last.id)).status_code == 200
    await told.tells(line.format(shown(last)))
    assert [len(told.lines_of(one)) for one in (before, after, last)] == [1, 2, 1]


async def test_the_secret_is_nowhere_and_verify_finds_all_in_order(told: Told) -> None:
    await told.park.callboard("verify")
    texts = {**told.park.logs()}
    assert any("discord answered 503" in text for text in texts.values())
    texts[Path("status")] = await told.park.callboard("status")
    assert not [path.name for path, text in texts.items() if told.webhook.token in text]


async def test_a_webhook_that_was_deleted_touches_nothing_else(told: Told) -> None:
    park, guest, worker = told.park, told.park.person(GUEST), told.park.person(CAST)
    told.webhook.is_deleted = True
    told.standin.requests.clear()
    assert (await park.approve(guest.id)).status_code == 200
    await wait_until(lambda: bool(told.standin.requests), 30)
    assert (await park.log(worker.id, 9 * 3600)).status_code == 200
    await park.has_points(worker.id, 540)

    def refusals() -> int:
        return "".join(told.park.logs().values()).count("Discord refuses the webhook (404)")

    await wait_until(lambda: refusals() > 0)
    assert refusals() == 1
    assert len(told.standin.requests) == 1
