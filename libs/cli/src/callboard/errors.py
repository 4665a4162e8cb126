"""What stops a command."""

import re


class CommandError(Exception):
    """The command cannot do what was asked; the text is one sentence for the operator."""


def in_short(error: Exception) -> str:
    """What MongoDB's driver says, without its settings and all that it knows of each server."""
    return re.split(r" \(configured timeouts|, Timeout: |, full error: |\n", str(error))[0][:200]


def of_mongodb(error: Exception) -> str | None:
    """What failed, why, and what to do, for an error of MongoDB's driver; None for any other error."""
    if not type(error).__module__.startswith("pymongo"):
        return None
    from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError

    why = in_short(error)
    if isinstance(error, ConfigurationError | InvalidURI):
        return f"CALLBOARD_MONGO_URL cannot be used: {why}."
    if isinstance(error, OperationFailure):
        if error.code == _AUTHENTICATION_FAILED:
            return f"MongoDB refused the user or the password: correct CALLBOARD_MONGO_URL. ({why})"
        if error.code == _UNAUTHORIZED:
            return f"MongoDB does not let this user do that: use a URL whose user may. ({why})"
        if error.code == _ILLEGAL_OPERATION and "replica set" in why:
            return f"MongoDB is not a member of a replica set, which Callboard needs: make it one. ({why})"
    if isinstance(error, PyMongoError) and (error.timeout or not isinstance(error, OperationFailure)):
        return f"MongoDB does not answer; is Callboard running? ({why})"
    return f"MongoDB refused: {why}."


_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18
_ILLEGAL_OPERATION = 20
