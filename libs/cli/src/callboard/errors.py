"""What stops a command."""


class CommandError(Exception):
    """The command cannot do what was asked; the text is one sentence for the operator."""
