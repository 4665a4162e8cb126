"""The file of a backup: gzip around BSON documents, written and read from front to back.

The first is the header. Blocks follow: each has documents of one collection, byte by byte as MongoDB keeps them.
The last is the seal: the SHA-256 of all before it, and how many documents each collection has. Collections go by
MongoDB's namespaces, such as `accounts.ledger`.
"""

import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from gzip import GzipFile
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from bson import CodecOptions, decode, decode_all, encode
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from callboard.errors import CommandError
from callboard.files import new_private_file
from common.mongo import Document

FORMAT = 1
_LEVEL = 1
_LONGEST = 32 << 20
"""Bytes: MongoDB sends 16 MiB at once, and a block has a little around that."""

_DATED = CodecOptions[Document](tz_aware=True)
_RAW = CodecOptions(document_class=RawBSONDocument)


@dataclass(frozen=True)
class Header:
    """What a backup has: all that was acknowledged before `taken_at`; `version` is Callboard's."""

    version: str
    taken_at: datetime
    collections: Sequence[str]


Counts = Mapping[str, int]
"""How many documents each collection has."""


class Writer:
    """Writes a backup into `file`; it is one once it is sealed."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._gzip = GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0)
        self._digest = sha256()
        self.counts = dict.fromkeys(header.collections, 0)
        self._put(
            {
                "callboard_backup": FORMAT,
                "version": header.version,
                "taken_at": header.taken_at,
                "collections": header.collections,
            }
        )

    def write(self, collection: str, documents: bytes) -> None:
        """Add documents, one behind the other."""
        self.counts[collection] += len(decode_all(documents, _RAW))
        self._put({"collection": collection, "documents": documents})

    def seal(self) -> None:
        """Write the seal, and whatever is not yet in the file."""
        self._put({"sha256": self._digest.digest(), "counts": self.counts})
        self._gzip.close()

    def _put(self, document: Mapping[str, Any]) -> None:
        data = encode(document)
        self._digest.update(data)
        self._gzip.write(data)


class Reader:
    """Reads a backup from `file`. Raises CommandError for what is none, and for one that is damaged or cut off.

    That none of it was changed is known once `blocks` has come to its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._gzip = GzipFile(mode="rb", fileobj=file)
        self._digest = sha256()
        try:
            header = self._next()
            found = header["callboard_backup"]
        except (CommandError, KeyError):
            raise CommandError("This is no backup of Callboard.") from None
        if found != FORMAT:
            raise CommandError(
                f"This backup has format {found}, and this Callboard reads format {FORMAT}: restore it with the "
                f"version that made it, {header.get('version')}."
            )
        try:
            self.header = Header(header["version"], header["taken_at"], header["collections"])
        except KeyError as error:
            raise _damaged(f"its header lacks {error}") from None
        self.counts = dict.fromkeys(self.header.collections, 0)

    def blocks(self) -> Iterator[tuple[str, list[RawBSONDocument]]]:
        """Each collection's documents, some at a time."""
        while True:
            digest = self._digest.digest()
            block = self._next()
            if "documents" not in block:
                break
            try:
                documents = decode_all(block["documents"], _RAW)
                self.counts[block["collection"]] += len(documents)
            except (BSONError, KeyError, TypeError) as error:
                raise _damaged(f"{type(error).__name__} in a block") from None
            yield block["collection"], documents
        if (block.get("sha256"), block.get("counts")) != (digest, self.counts):
            raise _damaged("its checksum is another")
        if self._read(1):
            raise _damaged("something follows its end")

    def _next(self) -> Document:
        size = self._read(4)
        length = int.from_bytes(size, "little")
        if not 5 <= length <= _LONGEST:
            raise _damaged("it ends too early" if len(size) < 4 else "it has a part of an impossible size")
        data = size + self._read(length - 4)
        self._digest.update(data)
        try:
            return decode(data, _DATED)
        except BSONError as error:
            raise _damaged(str(error)) from None

    def _read(self, length: int) -> bytes:
        try:
            return self._gzip.read(length)
        except (EOFError, OSError, zlib.error) as error:
            raise _damaged(str(error)) from None


@contextmanager
def new_file(name: str) -> Iterator[BinaryIO]:
    """Where to write a backup: a file for its owner only, there once it is complete, or `-` for standard output.

    Raises CommandError.
    """
    if name == "-" and sys.stdout.isatty():
        raise CommandError("A backup is nothing to look at: name a file, or send it on with a pipe.")
    if Path(name).exists():
        raise CommandError(f"{name} exists, and a backup takes the place of nothing.")
    try:
        with nullcontext(sys.stdout.buffer) if name == "-" else new_private_file(Path(name)) as file:
            yield file
            file.flush()
    except OSError as error:
        raise CommandError(f"The backup cannot be written to {name}: {error.strerror}.") from error


def present_file(name: str) -> BinaryIO:
    """A backup to read, more than once; `-` for standard input. Raises CommandError."""
    try:
        if name != "-":
            return Path(name).open("rb")
        copy = TemporaryFile()  # noqa: SIM115 - the caller closes it
        copyfileobj(sys.stdin.buffer, copy)
    except OSError as error:
        what = name if name != "-" else "standard input and kept in TMPDIR"
        raise CommandError(f"The backup cannot be read from {what}: {error.strerror}.") from error
    return copy


def describe(header: Header, counts: Counts) -> str:
    """What a backup holds, for people."""
    databases = {collection.partition(".")[0] for collection in header.collections}
    moment = header.taken_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{sum(counts.values()):,} documents of {len(databases)} databases, as of {moment}"


def _damaged(how: str) -> CommandError:
    return CommandError(f"This backup is damaged, and nothing of it can be trusted: {how}.")
