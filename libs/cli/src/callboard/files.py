"""Files that hold secrets or state: private to the user, and never seen half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from callboard.errors import CommandError


def private_dir(path: Path) -> Path:
    """The folder, made if need be, that only its owner can look into. Raises CommandError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise CommandError(f"The folder {path} cannot be used: {error.strerror}.") from error
    return path


def write_private(path: Path, text: str) -> None:
    """Put `text` in place of the file at once; only its owner can read it."""
    with new_private_file(path) as file:
        file.write(text.encode())


@contextmanager
def new_private_file(path: Path) -> Iterator[BinaryIO]:
    """A file that only its owner can read; at the end it takes the place of `path`, after an error it is gone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:  # from before it is there: Ctrl-C may come at any moment
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
