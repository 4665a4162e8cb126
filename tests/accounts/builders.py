"""What the tests of accounts are made of."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import httpx

from accounts.errors import RankRefused
from accounts.main import SERVICE, assemble
from accounts.models import Person
from accounts.plugins import CursorLost, MembersPage
from accounts.ranks import Ranks
from accounts.service import AccountsService
from accounts.sync import Walker
from common.app import create_app
from common.errors import Unavailable
from common.events import CertificationGranted, CertificationRevoked, RankChanged, ShiftLogged, new_id
from common.group import Group, load_group
from common.mongo import Database, connect, migrate
from common.outbox import Outbox
from common.outgoing.headers import TOKEN_HEADER
from common.outgoing.providers import Urgency
from common.service import Chassis
from common.settings import Settings
from tests.support import ROOT, Servers, settings, wait_until

GUEST, TRAINEE, CAST, MANAGER = 0, 10, 20, 40
OUTSIDE = "accounts_outside"
"""A database of its own, as a sync looks at all accounts."""


def shift_logged(user: int, points: int, **given: Any) -> ShiftLogged:
    """The event of a shift that pays this many points."""
    values: dict[str, Any] = {
        "id": new_id(),
        "occurred_at": datetime.now(UTC),
        "user": user,
        "place": 1001,
        "server": "server-1",
        "training": False,
        "started_at": 0,
        "ended_at": points * 60,
        "duration": points * 60,
        "credited_seconds": points * 60,
        "points": points,
        "logged_by": "game",
    }
    return ShiftLogged(**values | given)


def granted(user: int, code: str, version: int) -> CertificationGranted:
    """The event of a grant."""
    return CertificationGranted(user=user, username="A", certification=code, version=version, moderator="M")


def revoked(user: int, code: str, version: int) -> CertificationRevoked:
    """The event of a revocation."""
    return CertificationRevoked(user=user, username="A", certification=code, version=version, moderator="M")


class Company:
    """A ranking and identity plugin whose ranks and names are kept elsewhere: here, where a test changes them.

    While `is_down`, nothing is answered; while `may_answer` is cleared, answers wait. `lacking` are members
    that the list leaves out, `strange` users whom it tells nothing of, `lost` the cursors that are not known any
    more, `stuck` one that is not answered, and `turning` one whose page is the next as well; `omitted` is how many of
    each page cannot be read.
    """

    def __init__(self, ranks: Mapping[int, int] | None = None, *, has_list: bool = False) -> None:
        self.ranks = dict(ranks or {})
        self.names: dict[int, str] = {}
        self.is_down = False
        self.has_list = has_list
        self.refusal: RankRefused | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.lacking: set[int] = set()
        self.lost: list[str] = []
        self.strange: set[int] = set()
        self.stuck: str | None = None
        self.turning: str | None = None
        self.omitted = 0
        self.page_size = 2
        self.asked: list[int] = []
        self.set_to: list[tuple[int, int]] = []
        self.pages: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def read(self, user: int, urgency: Urgency) -> int | None:  # noqa: ARG002 - nobody is preferred
        self.asked.append(user)
        await self._answer()
        if user in self.strange:
            raise Unavailable("this user")
        return self.ranks.get(user)

    async def set(self, user: int, rankid: int) -> None:
        await self._answer()
        if self.refusal:
            raise self.refusal
        self.set_to.append((user, rankid))
        self.ranks[user] = rankid

    async def members(self, cursor: str) -> MembersPage:
        self.pages.append(cursor)
        await self._answer()
        if not self.has_list:
            raise Unavailable("the list")
        await wait_until(lambda: cursor != self.stuck, 60)
        if cursor in self.lost:
            self.lost.remove(cursor)
            raise CursorLost
        start = int(cursor or 0)
        listed = sorted((user, rank) for user, rank in self.ranks.items() if user not in self.lacking)
        end = start + self.page_size
        if cursor == self.turning:
            return MembersPage(listed[start:end], cursor)
        return MembersPage(listed[start:end], str(end) if end < len(listed) else "", self.omitted)

    async def by_id(self, user: int) -> Person | None:
        await self._answer()
        return Person(id=user, username=self.names[user]) if user in self.names else None

    async def by_username(self, username: str) -> Person | None:
        await self._answer()
        users = {name.casefold(): user for user, name in self.names.items()}
        user = users.get(username.casefold())
        return Person(id=user, username=self.names[user]) if user else None

    async def by_discord(self, discord: int) -> int | None:  # noqa: ARG002 - nobody is linked
        return None

    async def _answer(self) -> None:
        await self.may_answer.wait()
        if self.is_down:
            raise Unavailable("the company")


@dataclass(frozen=True)
class OutsidePark:
    """A replica of accounts whose ranks are kept elsewhere."""

    company: Company
    client: httpx.AsyncClient
    service: AccountsService
    database: Database

    async def connect(self, user: int) -> httpx.Response:
        """GET /connect for a place that asks for clearance."""
        answer = await self.client.get("/connect", params={"id": user, "place": 1003, "training": "false"})
        assert answer.status_code == 200, answer.text
        return answer

    async def clearance(self, user: int) -> int:
        """What /connect says."""
        found: int = (await self.connect(user)).json()["clearance"]
        return found

    async def profile(self, user: int) -> httpx.Response:
        """GET /profile."""
        return await self.client.get("/profile", params={"id": user})

    async def member(self, user: int, **query: Any) -> httpx.Response:
        """GET /internal/member."""
        return await self.client.get("/internal/member", params={"id": user, **query})

    async def account(self, user: int) -> dict[str, Any] | None:
        """What is stored of a user."""
        return await self.database["accounts"].find_one({"id": user})

    async def store(self, user: int, rankid: int, **age: float) -> None:
        """An account whose rank was read this long ago (as a timedelta takes it); without that, nobody knows when."""
        document: dict[str, Any] = {"id": user, "points": 0, "rankid": rankid, "rank_version": 1}
        if age:
            document["rank_read_at"] = datetime.now(UTC) - timedelta(**age)
        await self.database["accounts"].insert_one(document)

    async def rank_changes(self, user: int) -> list[int]:
        """The rankids of the events about this user."""
        return await rank_changes(self.database, user)


@asynccontextmanager
async def outside_park(
    servers: Servers, company: Company, *, keep_syncs: bool = False
) -> AsyncIterator[OutsidePark]:
    """A replica with this plugin, and with the accounts that others left; no sync was made, unless those are kept."""
    own = settings(Settings, servers)

    @asynccontextmanager
    async def open_service(chassis: Chassis[Settings]) -> AsyncIterator[AccountsService]:
        yield await assemble(chassis, [company], company)

    app = create_app(replace(SERVICE, name=OUTSIDE, open=open_service, handles={}), own)
    token = {TOKEN_HEADER: own.internal_token.get_secret_value()}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        outside_database(servers) as database,
        _without_syncs(database) if not keep_syncs else nullcontext(),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=token) as client,
    ):
        # A start that is cut short leaves a connection to MongoDB half made.
        await wait_until(lambda: bool(company.pages) or keep_syncs)
        yield OutsidePark(company, client, app.state.service, database)


@asynccontextmanager
async def outside_database(servers: Servers) -> AsyncIterator[Database]:
    """The database, as its migration makes it."""
    client, database = connect(settings(Settings, servers), OUTSIDE)
    async with client:
        await migrate(database, SERVICE.all_collections)
        yield database


@asynccontextmanager
async def _without_syncs(database: Database) -> AsyncIterator[None]:
    await database["syncs"].delete_many({})
    yield


async def rank_changes(database: Database, user: int) -> list[int]:
    """The rankids of the events about this user, in their order."""
    rows = database["outbox"].find({"subject": RankChanged.SUBJECT}).sort("_id")
    events = [RankChanged.model_validate_json(row["payload"]) async for row in rows]
    return [event.rankid for event in events if event.user == user]


def walker(database: Database, company: Company, group: Group | None = None) -> tuple[Walker, Ranks]:
    """One that walks when it is told to, and the ranks that it keeps."""
    group = group or load_group(ROOT / "callboard.toml")
    ranks = Ranks(group, database, Outbox(database), [company], company)
    return Walker(group, database, ranks, company), ranks
