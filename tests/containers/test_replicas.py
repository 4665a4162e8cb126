"""Two containers of each service behind one name: both work, and one that is killed is not missed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from callboard.services import SERVICES
from tests.containers.engine import Project, run
from tests.containers.park import ContainerPark
from tests.contracts.people import CAST
from tests.support import unique_id, wait_until

pytestmark = pytest.mark.containers

READ_METRICS = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())"


@pytest.fixture(scope="module")
async def two_of_each(project: Project) -> AsyncIterator[Project]:
    await project.up(2)
    yield project
    await project.up(1)


async def requests_of(container: str, route: str) -> float:
    """How many requests of this route a replica answered."""
    text = await run("docker", "exec", container, "python", "-c", READ_METRICS)
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "callboard_requests_total" and sample.labels["route"] == route
    )


class Games:
    """Game servers that log shifts and ask who somebody is, one after the other, until they are told to stop.

    A shift that is not recorded is sent again, as games do: a replica that was killed holds the timesheets of those in
    its last transaction until MongoDB ends that, after 5 s.
    """

    def __init__(self, park: ContainerPark) -> None:
        self.park = park
        self.answers: list[int | str] = []
        self.sent_again = 0
        self.is_over = False

    async def play(self) -> None:
        while not self.is_over:
            user = unique_id()
            # With a key, so that the gateway may try another replica.
            shift = {
                "ended_at": int(time.time()) - 60,
                "server": f"game-{user % 40}",
                "idempotency_key": f"shift-{user}",
            }
            if not await self.records(user, shift):
                self.sent_again += 1
                await wait_until(partial(self.records, user, shift), 20)
            await self.note(self.park.connect(user))
            await asyncio.sleep(0.02)

    async def records(self, user: int, shift: dict[str, Any]) -> bool:
        """Whether the shift is recorded, and not held up."""
        return await self.note(self.park.log(user, 600, **shift), but="/log: 503")

    async def note(self, answer: Awaitable[httpx.Response], *, but: str | None = None) -> bool:
        """Keep what is answered, `but` for this, of which it answers False."""
        try:
            self.answers.append((await answer).status_code)
        except (AssertionError, httpx.HTTPError) as error:
            if but and but in str(error):
                return False
            self.answers.append(str(error))
        return True

    async def go_on(self, answers: int) -> None:
        """Return once there are so many answers more."""
        enough = len(self.answers) + answers
        await wait_until(lambda: len(self.answers) >= enough, 60)


async def adds_up(park: ContainerPark) -> None:
    """Return once `verify` is content: NATS gives what a killed replica had begun to another after 30 s."""

    async def is_in_order() -> bool:
        with suppress(AssertionError):
            await park.callboard("verify")
            return True
        return False

    await wait_until(is_in_order, 90)


async def test_both_replicas_of_a_service_share_the_work(
    two_of_each: Project, container_park: ContainerPark
) -> None:
    person = container_park.person(CAST)

    async def both_answered() -> bool:
        for _ in range(20):
            assert (await container_park.log(person.id, 60, ago=60)).status_code == 200
        return all([await requests_of(one, "/log") >= 5 for one in two_of_each.containers("shifts")])

    await wait_until(both_answered, 30)
    assert len(two_of_each.containers("shifts")) == 2


async def test_replicas_that_are_killed_under_load_are_not_missed(
    two_of_each: Project, container_park: ContainerPark
) -> None:
    games = Games(container_park)
    playing = [asyncio.create_task(games.play()) for _ in range(8)]
    await games.go_on(100)
    victims = [two_of_each.containers(service)[0] for service in ("shifts", "accounts")]
    for victim in victims:
        await run("docker", "kill", victim)
        await games.go_on(300)
    games.is_over = True
    await asyncio.gather(*playing)
    assert set(games.answers) == {200}, [one for one in games.answers if one != 200][:5]
    assert games.sent_again <= len(playing), (
        "no more than were under way in the replica of shifts that was killed"
    )
    await run("docker", "start", *victims)
    await adds_up(container_park)


async def test_with_one_of_each_killed_everything_still_adds_up(
    two_of_each: Project, container_park: ContainerPark
) -> None:
    victims = [two_of_each.containers(service)[0] for service in SERVICES]
    person = container_park.person(CAST)
    await run("docker", "kill", *victims)
    assert (await container_park.log(person.id, 600, ago=60)).status_code == 200
    assert (await container_park.grant(person.username)).status_code == 200
    await container_park.has_points(person.id, 10)
    await container_park.wait_for_certifications(person.id, "tot")
    await adds_up(container_park)
    await run("docker", "start", *victims)
