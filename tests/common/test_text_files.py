"""Files of an operator: what Windows tools write is read, and another encoding is one sentence."""

from pathlib import Path

import pytest

from common.errors import ConfigurationError
from common.group import load_group
from common.settings import Settings, read_secret, read_settings
from gateway.routes import ROUTES, load_routes
from tests.support import ROOT

SHIPPED = (ROOT / "callboard.toml").read_text("utf-8")
SECRETS = {
    "mongo_url": "mongodb://127.0.0.1:1/?replicaSet=rs0",
    "nats_url": "nats://127.0.0.1:2",
    "internal_token": "t" * 40,
}
BY_WINDOWS = [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\r\n")]


def write(path: Path, text: str, encoding: str, line_end: str = "\n") -> Path:
    """A file as such a tool writes it."""
    path.write_bytes(text.replace("\n", line_end).encode(encoding))
    return path


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that services read their secrets from."""
    for name in SECRETS:
        monkeypatch.delenv(f"CALLBOARD_{name.upper()}", raising=False)
    monkeypatch.setenv("CALLBOARD_SECRETS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("encoding", "line_end"), BY_WINDOWS)
def test_a_configuration_that_windows_tools_wrote_is_the_same_configuration(
    tmp_path: Path, encoding: str, line_end: str
) -> None:
    file = write(tmp_path / "callboard.toml", SHIPPED, encoding, line_end)
    assert load_group(file) == load_group(ROOT / "callboard.toml")


@pytest.mark.parametrize(("encoding", "line_end"), BY_WINDOWS)
def test_routes_that_windows_tools_wrote_are_the_same_routes(
    tmp_path: Path, encoding: str, line_end: str
) -> None:
    file = write(tmp_path / "routes.toml", ROUTES.read_text("utf-8"), encoding, line_end)
    assert load_routes(file).all == load_routes().all


@pytest.mark.parametrize(("encoding", "line_end"), BY_WINDOWS)
def test_secrets_that_windows_tools_wrote_are_the_same_secrets(
    secrets: Path, encoding: str, line_end: str
) -> None:
    for name, value in {**SECRETS, "roblox_key": "abc"}.items():
        write(secrets / f"callboard_{name}", f"{value}\n", encoding, line_end)
    found = read_settings(Settings)
    assert found.mongo_url.get_secret_value() == SECRETS["mongo_url"]
    assert found.nats_url.get_secret_value() == SECRETS["nats_url"]
    assert found.internal_token.get_secret_value() == SECRETS["internal_token"]
    key = read_secret("roblox_key")
    assert key is not None
    assert key.get_secret_value() == "abc"


@pytest.mark.parametrize(
    ("encoding", "found"), [("utf-16", "UTF-16"), ("utf-16-be", "another encoding"), ("latin-1", "another")]
)
def test_a_file_in_another_encoding_is_one_sentence_with_its_name(
    secrets: Path, encoding: str, found: str
) -> None:
    text = "\xe4" * 40  # of which no other encoding is valid UTF-8
    for name in ("callboard.toml", "callboard_internal_token", "callboard_roblox_key"):
        write(secrets / name, text, encoding)
    for read in (
        lambda: load_group(secrets / "callboard.toml"),
        lambda: load_routes(secrets / "callboard.toml"),
        lambda: read_settings(Settings, mongo_url="m", nats_url="n"),
        lambda: read_secret("roblox_key"),
    ):
        with pytest.raises(ConfigurationError, match=rf"callboard\S+: must be UTF-8 text, found {found}"):
            read()


def test_the_other_encoding_is_also_seen_where_every_letter_is_latin_and_nothing_names_it(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "callboard.toml", SHIPPED.encode("ascii", "replace").decode(), "utf-16-le")
    with pytest.raises(ConfigurationError, match="must be UTF-8 text, found UTF-16"):
        load_group(file)


def test_a_secret_that_is_a_broken_file_says_so_and_not_what_is_in_it(secrets: Path) -> None:
    write(secrets / "callboard_internal_token", "geheim\xe4" * 10, "latin-1")
    with pytest.raises(ConfigurationError) as raised:
        read_settings(Settings, mongo_url="m", nats_url="n")
    assert "geheim" not in str(raised.value)
