"""What stops a command."""

import re


class CommandError(Exception):
    """The command cannot do what was asked; the text is one sentence for the operator."""


def in_short(error: Exception) -> str:
    """What MongoDB's driver says, without its settings and all that it knows of each server."""
    return re.split(r" \(configured timeouts|, Timeout: |\n", str(error))[0][:200]
