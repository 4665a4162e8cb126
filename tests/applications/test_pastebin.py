"""Applications at Pastebin: never lost, whatever it answers."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from applications.main import SERVICE
from applications.plugins import DOCUMENTS, Published
from applications.plugins.pastebin import Pastebin
from applications.repository import Repository
from applications.settings import ApplicationsLimits, ApplicationsSettings, PastebinLimits
from common.errors import ConfigurationError
from common.events import ApplicationSubmitted, parse_event
from common.group import load_group
from common.mongo import Database, migrate
from common.plugins import Finding, load
from tests.applications.builders import PUBLIC_URL, Park, database, park
from tests.standins import Fault, Forged
from tests.standins.pastebin import KEY
from tests.standins.pastebin import Pastebin as Standin
from tests.standins.pastebin import pastebin as pastebin_standin
from tests.support import ROOT, Servers, unconnected, unique_id

PATIENT = PastebinLimits(paste_seconds=30, calls_per_minute=60_000)


@dataclass
class Kept:
    """The plugin, and where what it publishes can be."""

    plugin: Pastebin
    standin: Standin
    database: Database

    async def publish(self) -> bool:
        """Publish a text, which must be readable here and where the URL says; answers whether that is at Pastebin."""
        text = f"Application {unique_id()}: I'd <b>smile</b> & wave \N{WAVING HAND SIGN}\n"
        published = await self.plugin.publish(text)
        url, copy = published if isinstance(published, Published) else (published, published)
        assert copy is not None
        assert (
            await Repository(self.database, ApplicationsLimits()).text(copy.removeprefix("applications/"))
            == text
        )
        if url == copy:
            return False
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            assert (await client.get(url)).text.startswith(text)
        return True


@asynccontextmanager
async def opened(
    own: Database,
    monkeypatch: pytest.MonkeyPatch,
    *,
    keep_days: int = 30,
    key: str = KEY,
    limits: PastebinLimits = PATIENT,
) -> AsyncIterator[Kept]:
    """The plugin on a Pastebin without pastes, and without the limits that are not what is tested."""
    monkeypatch.setenv("CALLBOARD_PASTEBIN_KEY", key)
    group = load_group(ROOT / "callboard.toml")
    async with pastebin_standin() as standin:
        applications = group.applications.model_copy(update={"keep_days": keep_days})
        plugins = group.plugins.model_copy(update={"options": {"pastebin": {"url": f"{standin.url}/"}}})
        group = group.model_copy(update={"applications": applications, "plugins": plugins})
        given = unconnected(ApplicationsSettings, public_url=PUBLIC_URL, pastebin=limits)
        async with load(DOCUMENTS, "pastebin", group, own, given) as plugin:
            yield Kept(plugin, standin, own)


@pytest.fixture(scope="module")
async def own(servers: Servers) -> AsyncIterator[Database]:
    """The database of applications."""
    async with database(servers) as found:
        await migrate(found, SERVICE.all_collections)
        yield found


@pytest.fixture
async def kept(own: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kept]:
    """With the key that Pastebin knows."""
    async with opened(own, monkeypatch) as one:
        yield one


async def test_a_text_becomes_an_unlisted_paste_that_says_what_it_is_unfit_for(kept: Kept) -> None:
    assert await kept.publish()
    (paste,) = kept.standin.pastes.values()
    assert (paste.private, paste.expires, paste.name) == ("1", "1M", "Application")
    assert "no place for personal data" in paste.text


async def test_the_url_shows_the_bare_text(kept: Kept) -> None:
    published = await kept.plugin.publish("text")
    assert isinstance(published, Published)
    url = published.url
    assert re.fullmatch(re.escape(kept.standin.url) + "/raw/[0-9a-f]{8}", url)


@pytest.mark.parametrize(
    ("keep_days", "expires"),
    [
        (1, "1D"),
        (6, "1D"),
        (7, "1W"),
        (14, "2W"),
        (29, "2W"),
        (30, "1M"),
        (179, "1M"),
        (180, "6M"),
        (365, "1Y"),
        (3650, "1Y"),
    ],
)
async def test_a_paste_expires_no_later_than_applications_do(
    own: Database, monkeypatch: pytest.MonkeyPatch, keep_days: int, expires: str
) -> None:
    async with opened(own, monkeypatch, keep_days=keep_days) as kept:
        await kept.plugin.publish("text")
        (paste,) = kept.standin.pastes.values()
        assert paste.expires == expires


# ------------------------------------------------------------------------------ what goes wrong there


@pytest.mark.parametrize("status", [200, 422])
async def test_after_the_daily_limit_texts_are_kept_here_and_it_is_left_alone_for_an_hour(
    kept: Kept, status: int
) -> None:
    kept.standin.most, kept.standin.error_status = 1, status
    assert await kept.publish()
    for _ in range(4):
        assert not await kept.publish()
    kept.standin.most = 2
    assert not await kept.publish()
    assert len(kept.standin.received("api_post")) == 2


async def test_it_is_asked_again_once_it_was_left_alone(
    own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(own, monkeypatch, limits=PATIENT.model_copy(update={"pause_seconds": 0.0})) as kept:
        kept.standin.most = 0
        assert not await kept.publish()
        kept.standin.most = 1
        assert await kept.publish()


@pytest.mark.parametrize(
    "fault",
    [
        Fault.BROKEN,
        Fault.AWAY,
        Fault.LIMITED,
        Fault.GARBAGE,
        Fault.CUT,
        Fault.CLOSED,
        Fault.HANG,
        Forged(200, b""),
        Forged(200, b"Bad API request, IP blocked"),
        Forged(422, b"Bad API request, maximum paste file size exceeded"),
        Forged(403, b"<!DOCTYPE html>"),
        Forged(302, headers={"location": "https://elsewhere.example/"}),
        Forged(200, b"\xff\xfe"),
    ],
    ids=str,
)
async def test_what_it_does_not_take_is_kept_here_and_sent_once(
    own: Database, monkeypatch: pytest.MonkeyPatch, fault: Fault | Forged
) -> None:
    limits = PATIENT.model_copy(update={"paste_seconds": 5.0}) if fault is Fault.HANG else PATIENT
    async with opened(own, monkeypatch, limits=limits) as kept:
        kept.standin.faults.always(fault)
        assert not await kept.publish()
        assert len(kept.standin.requests) == 1
        kept.standin.faults.clear()
        if fault is not Fault.LIMITED:
            assert await kept.publish()  # the next is sent again


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/abc12345",
        "{own}.evil.example/abc12345",
        "{own}@evil.example/abc12345",
        "{own}/",
        "{own}/../login",
        "{own}/abc?x=1",
        "{own}/abc/def",
        "{own}/abc def",
        "{own}/\N{CYRILLIC SMALL LETTER A}bc",
        "{own}/" + "a" * 33,
        "see {own}/abc12345",
        "{own}/abc12345\nBad API request",
        "javascript:alert(1)",
    ],
)
async def test_a_url_that_is_not_one_of_its_pastes_is_not_believed(kept: Kept, url: str) -> None:
    kept.standin.faults.next(Forged(200, url.format(own=kept.standin.url).encode()))
    assert not await kept.publish()


@pytest.mark.parametrize(
    "text",
    [
        "{own}/Abc12345",
        "{own}/Abc12345\n",
        "\r\n {own}/Abc12345 \r\n",
        "\ufeff{own}/Abc12345",
        "\ufeff\n{own}/Abc12345",
        "{own}/Abc12345/",
        "https://{host}/Abc12345",
        "HTTP://{host}/Abc12345",
    ],
    ids=ascii,
)
async def test_the_url_of_a_paste_is_known_however_it_is_written(kept: Kept, text: str) -> None:
    answer = text.format(own=kept.standin.url, host=kept.standin.url.partition("://")[2])
    kept.standin.faults.next(Forged(200, answer.encode()))
    published = await kept.plugin.publish("text")
    assert isinstance(published, Published)
    assert published.url == f"{kept.standin.url}/raw/Abc12345"


@pytest.mark.parametrize("text", ["\ufeffPost limit, maximum pastes per 24h reached\n", "post limit"])
async def test_its_daily_limit_is_known_however_it_is_written(kept: Kept, text: str) -> None:
    kept.standin.faults.next(Forged(422, text.encode()))
    for _ in range(2):
        assert not await kept.publish()
    assert len(kept.standin.requests) == 1


async def test_a_text_that_pastebin_hides_is_read_here_until_it_expires(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with park_at_pastebin(servers, monkeypatch, tmp_path) as (here, standin):
        user = unique_id()
        url = (await here.upload(user)).json()["url"]
        assert url.startswith(f"{standin.url}/raw/")
        standin.pastes.clear()
        (record,) = await here.records(user)
        (event,) = [
            parse_event(ApplicationSubmitted, one) for one in await here.events(user, "application_submitted")
        ]
        assert isinstance(event, ApplicationSubmitted)
        assert (record["url"], event.url) == (url, url)
        assert event.copy_url == record["copy_url"]
        assert "I like trains." in (await here.read(record["copy_url"])).text
        token = record["copy_url"].removeprefix(f"{PUBLIC_URL}/applications/")
        (document,) = await here.database["documents"].find({"_id": token}).to_list()
        assert document["expires_at"] - record["submitted_at"] < timedelta(days=30, minutes=1)


async def test_while_pastebin_hides_nothing_a_text_is_kept_here_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with park_at_pastebin(servers, monkeypatch, tmp_path) as (here, standin):
        user = unique_id()
        standin.faults.always(Fault.AWAY)
        await here.upload(user, q1=f"Application {user}")
        (record,) = await here.records(user)
        assert "copy_url" not in record
        assert (
            await here.database["documents"].count_documents({"text": {"$regex": f"Application {user}"}}) == 1
        )


async def test_a_slow_answer_is_waited_for(kept: Kept) -> None:
    kept.standin.faults.next(Fault.SLOW)
    assert await kept.publish()
    assert len(kept.standin.pastes) == 1


async def test_a_wrong_key_is_told_in_the_log_and_neither_it_nor_a_text_is_shown(
    own: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with opened(own, monkeypatch, key="a-wrong-key") as kept:
        await kept.plugin.publish("the canary sings")
        kept.standin.faults.next(Forged(200, b"Bad API request, \x1b[2J" + b"x" * 1000))
        await kept.plugin.publish("the canary sings")
        kept.standin.faults.next(Forged(200, b"api_dev_key=a-wrong-key the canary sings"))
        await kept.plugin.publish("the canary sings")
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "CALLBOARD_PASTEBIN_KEY" in told.getMessage()
    for unfit in ("a-wrong-key", "canary", "\x1b", "x" * 201):
        assert unfit not in caplog.text


# ------------------------------------------------------------------------------- the service, and doctor


@asynccontextmanager
async def park_at_pastebin(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> AsyncIterator[tuple[Park, Standin]]:
    """The service, which keeps texts at Pastebin."""
    monkeypatch.setenv("CALLBOARD_PASTEBIN_KEY", KEY)
    config = folder / "callboard.toml"
    async with pastebin_standin() as standin:
        text = (ROOT / "callboard.toml").read_text("utf-8")
        changed = text.replace('documents = "store"', 'documents = "pastebin"')
        config.write_text(f'{changed}\n[plugins.options.pastebin]\nurl = "{standin.url}"\n', "utf-8")
        async with park(servers, config=config) as here:
            yield here, standin


async def test_an_upload_answers_the_url_at_pastebin_or_else_one_of_this_callboard(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with park_at_pastebin(servers, monkeypatch, tmp_path) as (here, standin):
        user = unique_id()
        there = (await here.upload(user)).json()["url"]
        assert there.startswith(f"{standin.url}/raw/")
        standin.most = 0
        other = (await here.upload(user)).json()["url"]
        assert "I like trains." in (await here.read(other)).text
        assert {record["url"] for record in await here.records(user)} == {there, other}


async def findings(kept: Kept) -> list[Finding]:
    return [finding async for finding in kept.plugin.examine()]


async def test_the_doctor_hears_whether_the_key_is_known_and_nothing_is_pasted(
    own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(own, monkeypatch) as kept:
        known, warning = await findings(kept)
        assert known == Finding(True, "Pastebin answers, and has nothing against the key.")
        assert warning.is_right
        assert "personal data" in warning.mend
        assert not kept.standin.pastes
    async with opened(own, monkeypatch, key="a-wrong-key") as kept:
        wrong, _ = await findings(kept)
        assert not wrong.is_right
        assert "CALLBOARD_PASTEBIN_KEY" in wrong.mend
        kept.standin.faults.next(Forged(200, b"Welcome, a-wrong-key"))
        unclear, _ = await findings(kept)
        assert unclear.is_right
        assert unclear.mend
        assert "a-wrong-key" not in unclear.what
        kept.standin.faults.always(Fault.AWAY)
        (away,) = await findings(kept)
        assert not away.is_right


async def test_without_a_key_the_start_is_stopped(own: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALLBOARD_PASTEBIN_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="CALLBOARD_PASTEBIN_KEY"):
        load(DOCUMENTS, "pastebin", load_group(ROOT / "callboard.toml"), own)
