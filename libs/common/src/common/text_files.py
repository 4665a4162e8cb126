"""Text files that an operator edits, with whatever editor and on whatever system."""

import codecs
from pathlib import Path

from common.errors import ConfigurationError

_OTHER_ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte order mark, with "\\n" at the end of each line.

    Raises ConfigurationError that says why the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = _OTHER_ENCODINGS.get(content[:2], "another encoding")
        raise ConfigurationError(f"{path}: must be UTF-8 text, found {found}: save it as UTF-8.") from error
    if "\0" in text:
        raise ConfigurationError(f"{path}: must be UTF-8 text, found UTF-16: save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")
