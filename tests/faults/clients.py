"""Clients that behave like game servers and bots: they retry what they do not know, and note what they saw."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from tests.faults.history import Attempt, Kind, Operation, Outcome, Recorder, Told, moderator

CODES = ("char", "tot", "mtp", "btmr", "rnrc")
QUESTIONS = ("q1", "q2", "q3", "q4")
TRIES = 4
MODERATOR = "400000000000000004"
PATIENCE_SECONDS = (0.3, 1.0, 3.0, 12.0)
"""How long a client waits for an answer; some are more patient than the gateway, some give up early."""

_PATHS = {
    "log": "/log",
    "grant": "/certification/grant",
    "revoke": "/certification/revoke",
    "approve": "/application/approve",
    "upload": "/application/upload",
    "connect": "/connect",
    "profile": "/profile",
}
_READS = ("connect", "profile")
_KEYS = {
    "log": "roblox",
    "grant": "discord",
    "revoke": "discord",
    "approve": "discord",
    "upload": "roblox",
    "connect": "roblox",
    "profile": "discord",
}
_REFUSALS = (400, 422)


@dataclass(frozen=True)
class Person:
    """Somebody in the park."""

    id: int
    username: str


@dataclass(frozen=True)
class Park:
    """Who works here: `certified` hold `tot` throughout, `others` never do, the `changing` come and go."""

    url: str
    keys: dict[str, str]
    certified: Sequence[Person]
    others: Sequence[Person]
    changing: Sequence[Person]
    guests: Sequence[Person]

    @property
    def workers(self) -> list[Person]:
        """All who log shifts."""
        return [*self.certified, *self.others, *self.changing]


class Client:
    """Sends operations, again where their outcome is not known, until it is told to finish."""

    def __init__(self, park: Park, name: str, seed: int, folder: Path) -> None:
        self.park = park
        self.name = name
        self.rng = random.Random(f"{seed} {name}")  # noqa: S311 - no secret
        self.is_over = asyncio.Event()
        self.ids = (f"{name}-{number}" for number in itertools.count(1))
        self._recorder = Recorder(folder, name)
        self._http = httpx.AsyncClient(base_url=park.url, trust_env=False, timeout=60)

    async def run(self) -> None:
        """Work until `is_over`, and finish what is under way."""
        while not self.is_over.is_set():
            await self.work()

    async def close(self) -> None:
        """Close the history and the connections."""
        self._recorder.close()
        await self._http.aclose()

    async def work(self) -> None:
        """One piece of work; each client's own."""
        raise NotImplementedError

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than the run lasts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.is_over.wait()

    async def send(self, operation: Operation, tries: int = TRIES, patience: float | None = None) -> Attempt:
        """Send until the outcome is known, a few times."""
        for number in range(tries):
            attempt = await self.attempt(operation, patience)
            if attempt.outcome != "unknown":
                break
            if number + 1 < tries:
                await asyncio.sleep(self.rng.uniform(0.1, 0.8))
        return attempt

    async def attempt(self, operation: Operation, patience: float | None = None) -> Attempt:
        """Send once, and wait for the answer for as long as `patience` lasts (seconds; else a random while)."""
        attempt = self._recorder.invoke(operation)
        headers = {"x-api-key": self.park.keys[_KEYS[operation.kind]]}
        params = dict(operation.params)
        if "place" in params:
            headers["Roblox-Id"] = str(params["place"])
        if operation.kind == "log":
            params["training"] = json.dumps(params["training"])
            if ahead := params.pop("ahead", 0):
                params["now"] = int(time.time()) + ahead
        if operation.kind in ("grant", "revoke"):
            params["moderator"] = moderator(operation, attempt)  # which the event will carry
        if operation.idempotency_key:
            headers["Idempotency-Key"] = operation.idempotency_key
        try:
            async with asyncio.timeout(patience or self.rng.choice(PATIENCE_SECONDS)):
                answer = await self._http.request(
                    "GET" if operation.kind in _READS else "POST",
                    _PATHS[operation.kind],
                    params=params,
                    headers=headers,
                    json=operation.body,
                )
        except (httpx.HTTPError, TimeoutError) as error:
            attempt.text = type(error).__name__
        else:
            attempt.status, attempt.text = answer.status_code, answer.text
            attempt.is_replay = "Idempotent-Replayed" in answer.headers
            attempt.outcome = _outcome(answer.status_code)
        attempt.ended_at = time.time()
        self._recorder.end(attempt)
        return attempt


def _outcome(status: int) -> Outcome:
    if status == 200:
        return "ok"
    return "refused" if status in _REFUSALS else "unknown"


class GameServer(Client):
    """Logs shifts in all the forms in which games log them; people are on several servers at once."""

    def __init__(self, park: Park, name: str, seed: int, folder: Path) -> None:
        super().__init__(park, name, seed, folder)
        self._sent: list[Told] = []
        self._durations: set[int] = set()
        self._ahead = self.rng.choice((0, 1, -1)) * self.rng.randrange(1, 30 * 86_400)
        """By how many seconds this server's clock is wrong; where it is, each end comes with what it shows."""

    async def work(self) -> None:
        """A new shift, or an old one that the network delivers once more, or something to refuse."""
        choice = self.rng.random()
        if choice < 0.12 and self._sent:
            await self.attempt(self.rng.choice(self._sent).operation)
        elif choice < 0.16:
            await self.send(self._impossible())
        else:
            operation = self._shift()
            if self.rng.random() < 0.06:  # the network delivers it twice
                told = await asyncio.gather(self.attempt(operation), self.attempt(operation))
                self._sent.append(Told(operation, list(told)))
            else:
                self._sent.append(Told(operation, [await self.send(operation)]))
        await self.pause(self.rng.uniform(0, 0.1))

    def _shift(self) -> Operation:
        form = self.rng.choices(("key and end", "key", "end", "bare"), (35, 15, 25, 25))[0]
        person = self.rng.choice(self.park.workers)
        place = self.rng.choices((1001, 1002, 999_999), (60, 30, 10))[0]
        training = self.rng.random() < 0.1
        # A bare shift sent again counts as the same within half its duration, which no run outlasts.
        params = {
            "id": person.id,
            "place": place,
            "duration": self._duration(1800 if form in ("bare", "key") else 20),
            "training": training,
            "server": self.name,
        }
        if form.endswith("end"):
            late = self.rng.random() < 0.3
            ago = self.rng.randrange(5 * 86_400 if late else 7200)
            params["ended_at"] = int(time.time()) + self._ahead - ago
            params["ahead"] = self._ahead
        operation_id = next(self.ids)
        expected: Outcome | None = "ok"
        if place == 1002 and not training and person not in self.park.certified:
            expected = "refused" if person in self.park.others else None
        return Operation(
            operation_id,
            "log",
            params,
            idempotency_key=f"key-{operation_id}" if form.startswith("key") else None,
            expected=expected,
        )

    def _impossible(self) -> Operation:
        operation = self._shift()
        params = dict(operation.params)
        reusable = [
            told.operation for told in self._sent if told.outcome == "ok" and told.operation.idempotency_key
        ]
        if reusable and self.rng.random() < 0.5:
            key = self.rng.choice(reusable).idempotency_key
            return replace(operation, idempotency_key=key, expected="refused")
        if self.rng.random() < 0.5:
            params["ended_at"] = int(time.time()) + self._ahead - 8 * 86_400
            params["ahead"] = self._ahead
        else:
            params["duration"] += 86_400
        return replace(operation, params=params, expected="refused")

    def _duration(self, least: int) -> int:
        """A duration that no other shift of this server has: server and duration name the shift."""
        duration = self.rng.randrange(least, 7200)
        while duration in self._durations:
            duration = self.rng.randrange(least, 7200)
        self._durations.add(duration)
        return duration


class Trainer(Client):
    """Grants and revokes certifications; the only one who does so for its own people and codes."""

    def __init__(
        self, park: Park, name: str, seed: int, folder: Path, people: Sequence[Person], seconds: float
    ) -> None:
        super().__init__(park, name, seed, folder)
        self._pairs = [(person, code) for person in people for code in CODES]
        self._held: dict[tuple[Person, str], bool | None] = dict.fromkeys(self._pairs, False)
        self._uncertain: set[tuple[Person, str]] = set()
        """Where a request whose outcome is not known may still take effect."""
        self._pause = seconds

    async def work(self) -> None:
        """Change one certification, twice in a row at times."""
        pair = self.rng.choice(self._pairs)
        for _ in range(self.rng.choice((1, 2))):
            await self.change(*pair)
        await self.pause(self.rng.uniform(0, 2 * self._pause))

    async def change(self, person: Person, code: str, patience: float | None = None) -> None:
        """Revoke what is held, grant what is not, and either where that is not known.

        A request without an Idempotency-Key may take effect late, when its outcome was not known. So each has a
        moderator of its own, whom the event carries. With a key, it may only take effect once, and is never refused
        where all that came before was known.
        """
        held = self._held[person, code]
        is_held = self.rng.random() < 0.5 if held is None else held
        kind: Kind = "revoke" if is_held else "grant"
        operation_id = next(self.ids)
        has_key = self.rng.random() < 0.5
        operation = Operation(
            operation_id,
            kind,
            {"username": person.username, "certification": code},
            idempotency_key=f"key-{operation_id}" if has_key else None,
            expected="ok" if has_key and (person, code) not in self._uncertain else None,
        )
        attempt = await self.send(operation, patience=patience)
        self._held[person, code] = None if attempt.outcome == "unknown" else kind == "grant"
        if attempt.outcome == "unknown" or (not has_key and not attempt.name.endswith(".1")):
            self._uncertain.add((person, code))


class Visitor(Client):
    """Reads, as a game does when somebody joins, and a bot when somebody asks; once each time."""

    async def work(self) -> None:
        """One read."""
        person = self.rng.choice(self.park.workers)
        kind: Kind = self.rng.choice(("connect", "profile"))
        params: dict[str, object] = {"id": person.id}
        if kind == "connect":
            params |= {"place": 1001, "training": "false"}
        await self.send(Operation(next(self.ids), kind, params, expected="ok"), tries=1)
        await self.pause(self.rng.uniform(0, 0.2))


class LastServer(Client):
    """Logs one more shift for every worker, once everything is up again."""

    async def run(self) -> None:
        """Return once every shift is acknowledged."""
        await asyncio.gather(*(self._log(number, person) for number, person in enumerate(self.park.workers)))

    async def _log(self, number: int, person: Person) -> None:
        params = {
            "id": person.id,
            "place": 1001,
            "duration": 60 + number,
            "training": False,
            "server": self.name,
            "ended_at": int(time.time()),
        }
        operation = Operation(f"{self.name}-{number}", "log", params, f"{self.name}-{number}", expected="ok")
        await self.send(operation, tries=1_000_000, patience=5)


class Recruiter(Client):
    """Uploads applications and has them approved, one guest after the other."""

    def __init__(self, park: Park, name: str, seed: int, folder: Path, seconds: float) -> None:
        super().__init__(park, name, seed, folder)
        self._waiting = list(park.guests)
        self._pause = seconds
        self.undecided: list[Operation] = []

    async def work(self) -> None:
        """The next guest."""
        if not self._waiting:
            await self.is_over.wait()
            return
        guest = self._waiting.pop()
        answers = {question: f"{question} of {guest.username}" for question in QUESTIONS}
        has_keys = self.rng.random() < 0.5
        upload, approve = next(self.ids), next(self.ids)
        await self.send(
            Operation(
                upload,
                "upload",
                {"id": guest.id},
                idempotency_key=f"key-{upload}" if has_keys else None,
                body=answers,
                expected="ok",
            )
        )
        approval = Operation(
            approve,
            "approve",
            {"id": guest.id, "moderator": MODERATOR},
            idempotency_key=f"key-{approve}" if has_keys else None,
            expected="ok" if has_keys else None,  # else a repeat may be told that they are a trainee already
        )
        if (await self.send(approval)).outcome == "unknown":
            self.undecided.append(approval)
        await self.pause(self.rng.uniform(0, 2 * self._pause))

    async def settle(self) -> None:
        """Ask for what was left undecided once more, with everything up again."""
        for approval in self.undecided:
            await self.send(approval, tries=10, patience=30)
