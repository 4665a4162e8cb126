"""The file of a backup: whatever is not as it was made is refused before anything is written."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

import bson
import pytest

from callboard.backup_file import FORMAT, Header, Writer
from callboard.errors import CommandError
from callboard.restore import restore
from common.settings import Settings, read_settings
from tests.cli.backup.parks import Saved, contents, quiet


def nowhere() -> nullcontext[Settings]:
    """A system that is not there: whoever goes near it fails with another error than a CommandError."""
    url = "mongodb://127.0.0.1:1/?replicaSet=none"
    return nullcontext(
        read_settings(Settings, mongo_url=url, nats_url="nats://127.0.0.1:1", internal_token="-" * 40)
    )


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What may have become of a backup on its way. (A bit that only fills up a byte says nothing: none is flipped.)"""
    plain = gzip.decompress(data)
    for length in (0, 1, 9, 10, 30, len(data) // 2, len(data) - 9, len(data) - 1):
        yield f"cut off after {length}", data[:length]
    for place in range(10, len(data), max(1, len(data) // 200)):  # what is before only says who packed it
        flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        if not packs(flipped, plain):
            yield f"bit flipped at {place}", flipped
    yield "longer", data + b"x"
    yield "twice", data + data
    yield "no backup", b"no backup\n" * 100


def packs(data: bytes, plain: bytes) -> bool:
    """Whether this is a way to pack exactly these bytes."""
    with suppress(EOFError, OSError, zlib.error):
        return gzip.decompress(data) == plain
    return False


async def test_a_file_that_is_not_as_it_was_made_is_refused_before_anything_is_written(saved: Saved) -> None:
    for what, data in damaged(saved.file.read_bytes()):
        try:
            await restore(nowhere(), io.BytesIO(data), quiet)
        except CommandError as error:
            assert str(error).startswith(("This backup is damaged, ", "This is no backup of Callboard.")), (
                what
            )


def made(collection: str, document: dict[str, Any]) -> io.BytesIO:
    """A backup of one document, by Callboard 9.9.9."""
    file = io.BytesIO()
    writer = Writer(file, Header("9.9.9", datetime.now(UTC), [collection]))
    writer.write(collection, bson.encode(document))
    writer.seal()
    return file


async def test_a_backup_that_this_version_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.backup_file.FORMAT", FORMAT + 1)
    newer = made("accounts.ledger", {"_id": 1})
    monkeypatch.undo()
    with pytest.raises(CommandError, match=r"has format 2, .* reads format 1: .* made it, 9\.9\.9\."):
        await restore(nowhere(), newer, quiet)
    unknown = made("rides.rides", {"_id": 1})
    with pytest.raises(CommandError, match=r"no database rides: .* made it, 9\.9\.9\."):
        await restore(nowhere(), unknown, quiet)


async def test_what_was_left_out_or_changed_is_noticed_though_it_was_packed_anew() -> None:
    data = made("accounts.ledger", {"_id": 1, "points": 10}).getvalue()
    document = bson.encode({"_id": 1, "points": 10})
    assert [one.raw for one in contents(io.BytesIO(data))["accounts.ledger"]] == [document]
    plain = gzip.decompress(data)
    block = bson.encode({"collection": "accounts.ledger", "documents": document})
    for forged in (
        plain.replace(block, b""),
        plain.replace(block, block * 2),
        plain.replace(document, bson.encode({"_id": 1, "points": 99})),
        plain.replace(b"9.9.9", b"9.9.8"),
    ):
        assert forged != plain
        with pytest.raises(CommandError, match="its checksum is another"):
            await restore(nowhere(), io.BytesIO(gzip.compress(forged)), quiet)
