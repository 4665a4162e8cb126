"""A whole Callboard that runs as an operator runs it, and the people in its park.

Everything goes through the gateway's port and the `callboard` command. Each answer is held to what the
contract says of all answers: never 500, and every error in the one shape.
"""

import asyncio
import csv
import itertools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from callboard.servers import free_port
from tests.contracts.people import GUEST, LARGEST, RANKS, Person, Rank
from tests.support import ROOT, unique_id, wait_until

CALLBOARD = Path(sys.executable).with_name("callboard")
CODES = ("char", "tot", "mtp", "btmr", "rnrc")
QUESTIONS = ("q1", "q2", "q3", "q4")
PEOPLE_PER_RANK = 150
MANY_WRONG_KEYS = {'wrong_keys_per_address = "60/min"': 'wrong_keys_per_address = "60000/min"'}
"""A change of `callboard.toml` that these tests need, as they try many."""

NOT_FOUND = '{"status":"error","message":"not found"}'
INVALID_KEY = '{"status":"error","message":"invalid key"}'
ACCESS_DENIED = '{"status":"error","message":"access denied"}'
SUCCESS = '{"status":"success"}'
NO_SUCH_USER = (
    '{"status":"error","message":"couldn\'t find user","discord":"We couldn\'t find the requested user, '
    'please ensure you typed it correctly and try again."}'
)


Params = Mapping[str, object] | Sequence[tuple[str, object]]


@dataclass
class Park:
    """One running Callboard. `secrets` is what must never stand in a log, `network` where these tests call from.

    `repeated` counts the requests that had to be made again.
    """

    form: str
    data_dir: Path
    url: str
    process: asyncio.subprocess.Process | None
    client: httpx.AsyncClient
    network: str = "127.0.0.0/8"
    keys: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    repeated: int = 0
    _people: dict[Rank, list[Person]] = field(default_factory=dict)
    _servers: Iterator[int] = field(default_factory=itertools.count)

    # ------------------------------------------------------------------------------------ people and keys

    def person(self, rank: Rank = GUEST) -> Person:
        """Somebody of this rank who never worked."""
        return self._people[rank].pop()

    async def admit(self, people: Sequence[Person]) -> None:
        """Import people, or change what is known of them."""
        path = self.data_dir.parent / f"people-{unique_id()}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "username", "rank", "discord"))
            rows.writerows((one.id, one.username, one.rank.name, one.discord) for one in people)
        await self.callboard("people", "import", str(path))

    async def admit_many(self) -> None:
        """Import enough people for every test, at once."""
        for rank in RANKS:
            self._people[rank] = [
                Person(number, f"Player_{number}", unique_id(), rank)
                for number in (unique_id() for _ in range(PEOPLE_PER_RANK))
            ]
        await self.admit([LARGEST, *(one for people in self._people.values() for one in people)])

    async def make_key(self, name: str, scope: str, *options: str) -> str:
        """A new key, once the gateway knows it."""
        return await self._shown_key("create", name, "--scope", scope, *options)

    async def rotate_key(self, name: str, *options: str) -> str:
        """The successor of a key, once the gateway knows it."""
        return await self._shown_key("rotate", name, *options)

    async def _shown_key(self, *arguments: str) -> str:
        key: str = json.loads(await self.callboard("keys", *arguments, "--json"))["key"]
        self.secrets.add(key)
        await wait_until(lambda: self.knows(key))
        return key

    async def knows(self, key: str) -> bool:
        """Whether this is a key, as far as the gateway knows; the question has no parameters, and no effect."""
        return (await self.call("GET", "/profile", key=key)).status_code != 401

    # ------------------------------------------------------------------------------------------- requests

    async def call(
        self,
        method: str,
        path: str,
        params: Params = (),
        *,
        key: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """One request. A parameter that is None is left out; `key` is the value of a key."""
        pairs = params.items() if isinstance(params, Mapping) else params
        sent = tuple((name, _text(value)) for name, value in pairs if value is not None)
        given = [
            (name, value.encode() if isinstance(value, str) else value)
            for name, value in (headers or {}).items()
        ]
        carried = [(name.encode(), value) for name, value in given]
        if key is not None:
            carried.append((b"x-api-key", key.encode()))
        response = await self.send(method, path, params=sent or None, headers=carried, **body)
        check(response)
        assert not [key for key in self.keys.values() if key in response.text]
        return response

    async def send(self, method: str, path: str, **how: Any) -> httpx.Response:
        """The answer to one request, made again where games and bots would."""
        for _ in range(8):
            response = await self.client.request(method, path, **how)
            if not self.must_repeat(response):
                break
            self.repeated += 1
            await asyncio.sleep(float(response.headers.get("Retry-After", 0.2)))
        return response

    def must_repeat(self, response: httpx.Response) -> bool:
        """Whether something took too long, as on a busy machine it may: there are limits of a third of a second."""
        return response.status_code in (503, 504)

    async def connect(self, user: object, place: object = 1001, **changes: Any) -> httpx.Response:
        """GET /connect from a Roblox server of that place."""
        return await self._from_roblox(
            "GET", "/connect", {"place": place, "id": user, "training": False}, changes
        )

    async def log(self, user: object, duration: object = 60, **changes: Any) -> httpx.Response:
        """POST /log from a Roblox server. `ago`: how many seconds before now the shift ended."""
        params = {"id": user, "place": 1001, "duration": duration, "training": False, "server": self.server()}
        if "ago" in changes:
            params["ended_at"] = int(time.time()) - changes.pop("ago")
        return await self._from_roblox("POST", "/log", params, changes)

    async def log_minute(self, user: int, *, days_ago: float = 5) -> None:
        """A minute that overlaps nothing: once its point is there, so are those of what was sent before it."""
        assert (await self.log(user, 60, ago=int(days_ago * 86_400))).text == SUCCESS

    def server(self) -> str:
        """The id of a game server that no other shift came from."""
        return f"server-{next(self._servers)}"

    async def profile(self, **params: object) -> httpx.Response:
        """GET /profile, with the operator's key."""
        return await self.call("GET", "/profile", params, key=self.keys["operator"])

    async def account(self, user: int) -> str | None:
        """The `_id` of a user's account, if there is one."""
        found: str | None = (await self.profile(id=user)).json().get("_id")
        return found

    async def grant(
        self, username: object, certification: object = "tot", **changes: object
    ) -> httpx.Response:
        """POST /certification/grant, as the Discord bot."""
        return await self._change("grant", username, certification, changes)

    async def revoke(
        self, username: object, certification: object = "tot", **changes: object
    ) -> httpx.Response:
        """POST /certification/revoke, as the Discord bot."""
        return await self._change("revoke", username, certification, changes)

    async def approve(self, user: object, **changes: object) -> httpx.Response:
        """POST /application/approve, as the Discord bot."""
        params = {"id": user, "moderator": "400000000000000004", **changes}
        return await self.call("POST", "/application/approve", params, key=self.keys["discord"])

    async def upload(self, user: object, **body: Any) -> httpx.Response:
        """POST /application/upload with a JSON (`json=`) or form (`data=`) body, as a Roblox server."""
        return await self.call("POST", "/application/upload", {"id": user}, key=self.keys["roblox"], **body)

    async def _change(
        self, what: str, username: object, certification: object, changes: Mapping[str, object]
    ) -> httpx.Response:
        params = {
            "certification": certification,
            "username": username,
            "moderator": "400000000000000004",
            **changes,
        }
        return await self.call("POST", f"/certification/{what}", params, key=self.keys["discord"])

    async def _from_roblox(
        self, method: str, path: str, params: dict[str, object], changes: dict[str, Any]
    ) -> httpx.Response:
        key = changes.pop("key", self.keys["roblox"])
        headers = {"Roblox-Id": str(changes.pop("roblox_id", changes.get("place", params["place"])))}
        if "idempotency_key" in changes:
            headers["Idempotency-Key"] = changes.pop("idempotency_key")
        return await self.call(method, path, {**params, **changes}, key=key, headers=headers)

    # ------------------------------------------------------------------------ what events make visible

    async def shows(self, expected: str, **params: object) -> None:
        """Return once /profile answers exactly this. Fails, showing both, if it does not within 30 s."""
        seen = ""

        async def is_shown() -> bool:
            nonlocal seen
            seen = (await self.profile(**params)).text
            return seen == expected

        with suppress(TimeoutError):
            await wait_until(is_shown)
        assert seen == expected

    async def has_points(self, user: int, expected: int) -> None:
        """Return once the user has exactly these points. Fails if that is not so within 30 s."""
        seen = -1

        async def is_shown() -> bool:
            nonlocal seen
            answer = await self.profile(id=user)
            seen = answer.json()["points"] if answer.status_code == 200 else 0
            return seen == expected

        with suppress(TimeoutError):
            await wait_until(is_shown)
        assert seen == expected

    async def wait_for_certifications(self, user: int, *codes: str) -> None:
        """Return once the user holds exactly these, in this order. Fails if that is not so within 30 s."""
        seen: list[str] = []

        async def is_shown() -> bool:
            nonlocal seen
            seen = (await self.profile(id=user)).json()["certifications"]
            return seen == list(codes)

        with suppress(TimeoutError):
            await wait_until(is_shown)
        assert seen == list(codes)

    # --------------------------------------------------------------------------------- the operator's side

    async def callboard(self, *arguments: str, exit_code: int = 0) -> str:
        """What `callboard ...` prints about this park."""
        process = await asyncio.create_subprocess_exec(
            CALLBOARD,
            *arguments,
            "--data-dir",
            str(self.data_dir),
            cwd=ROOT,
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await process.communicate()
        assert process.returncode == exit_code, f"{arguments}: {out.decode()}{error.decode()}"
        return out.decode()

    def components(self) -> list[dict[str, Any]]:
        """What `run.json` lists."""
        listed = json.loads((self.data_dir / "run.json").read_text("utf-8"))
        found: list[dict[str, Any]] = listed["components"] if isinstance(listed, dict) else listed
        return found

    def logs(self) -> dict[Path, str]:
        """Every log file of the data folder, and what `callboard up` itself printed."""
        paths = {*self.data_dir.rglob("*.log*"), self.data_dir.parent / "up.txt"}
        return {path: path.read_text("utf-8", errors="replace") for path in paths if path.is_file()}

    async def stop(self) -> None:
        """Stop by SIGTERM, as a machine that shuts down does; it must end well and leave nothing running."""
        await self.client.aclose()
        assert self.process
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(60):
                status = await self.process.wait()
            assert status == 0, self.logs()[self.data_dir.parent / "up.txt"][-2000:]
            assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        finally:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


async def open_park(
    folder: Path,
    *options: str,
    form: str,
    config: Path,
    path: str = "",
    variables: Mapping[str, str] | None = None,
    kind: Callable[..., Park] = Park,
) -> Park:
    """Start `callboard up` in an empty folder and return once it serves; `path` is where plugins are."""
    port = free_port()
    data_dir = folder / "data"
    command = ("up", "--data-dir", str(data_dir), "--port", str(port), "--config", str(config), *options)
    with (folder / "up.txt").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            CALLBOARD,
            *command,
            cwd=ROOT,
            env=environment(path) | dict(variables or {}),
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)
    park = kind(form, data_dir, url, process, client)

    async def serves() -> bool:
        assert process.returncode is None, (folder / "up.txt").read_text("utf-8")
        with suppress(httpx.HTTPError):
            return (await client.get("/readyz")).status_code == 200 and (data_dir / "keys.env").exists()
        return False

    try:
        await wait_until(serves, seconds=120)
        lines = (data_dir / "keys.env").read_text("utf-8").splitlines()
        found = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]+_KEY=", line))
        park.keys |= {name: found[f"{name.upper()}_KEY"] for name in ("roblox", "discord", "operator")}
        park.secrets |= set(park.keys.values())
        await park.admit_many()
    except BaseException:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
        raise
    return park


def environment(path: str = "") -> dict[str, str]:
    """This process's environment without what would lead `callboard` to another system."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    return own | ({"PYTHONPATH": path} if path else {})


def changed_config(folder: Path, changes: Mapping[str, str]) -> Path:
    """The shipped `callboard.toml` with other lines in place of some."""
    text = (ROOT / "callboard.toml").read_text("utf-8")
    for line, other in changes.items():
        assert text.count(f"\n{line}\n") == 1, line
        text = text.replace(f"\n{line}\n", f"\n{other}\n")
    path = folder / "callboard.toml"
    path.write_text(text, "utf-8")
    return path


def check(response: httpx.Response) -> None:
    """What the contract says of every answer."""
    shown = f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text}"
    assert response.status_code not in (500, 503, 504), shown
    if response.status_code >= 400 and response.request.method != "HEAD":
        assert response.headers["content-type"] == "application/json", shown
        body = response.json()
        assert body["status"] == "error", shown
        assert {"message", "discord"} & set(body), shown
        assert all(isinstance(value, str) for value in body.values()), shown


def is_refused(response: httpx.Response, status: int, *words: str) -> bool:
    """Whether the answer is this error and its message has these words. Shows the answer where it is not."""
    message = response.json().get("message", "")
    assert response.status_code == status, response.text
    assert all(word in message for word in words), response.text
    return True


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
