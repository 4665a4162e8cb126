"""NATS as the commands use it: one connection, which is not kept up, and its refusals in one sentence."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from callboard.errors import CommandError
from common.settings import Settings
from common.stream import STREAM

_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 5


@asynccontextmanager
async def open_jetstream(settings: Settings) -> AsyncIterator[JetStreamContext]:
    """JetStream, for as long as the context is open.

    Raises CommandError when NATS does not answer, and for what NATS refuses inside the context.
    """
    told: list[Exception] = []

    async def note(error: Exception) -> None:
        told.append(error)  # an error of permissions comes only here

    client = Client()
    try:
        try:
            await client.connect(
                settings.nats_url.get_secret_value().split(","),
                allow_reconnect=False,
                max_reconnect_attempts=1,  # of each server; otherwise 60, with pauses of 2 s
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_SECONDS,
                error_cb=note,
            )
        except (OSError, NatsError, ValueError) as error:
            if _is_about_rights(error, *told):
                raise CommandError(
                    "NATS refused the user or the password: correct CALLBOARD_NATS_URL."
                ) from error
            raise CommandError("NATS does not answer; is Callboard running?") from error
        try:
            yield client.jetstream(timeout=_ANSWER_SECONDS)
        except (NatsError, TimeoutError) as error:
            raise CommandError(_sentence(error, told)) from error
    finally:
        await client.close()  # also what was only begun


def _sentence(error: Exception, told: list[Exception]) -> str:
    if _is_about_rights(error, *told):
        return "NATS does not let this user do that: use the URL of a user who may, in CALLBOARD_NATS_URL."
    if isinstance(error, NoStreamResponseError | NoRespondersError):
        return (
            f"NATS has no stream {STREAM}, or JetStream is off: start Callboard, which makes the stream, and see "
            "`callboard doctor`."
        )
    if isinstance(error, ServiceUnavailableError) and error.description:
        return f"NATS refused: {error.description}. Give the stream more room, and see `callboard doctor`."
    if isinstance(error, APIError) and error.description:
        return f"NATS refused: {error.description}. See `callboard doctor`."
    if isinstance(error, TimeoutError):
        return f"NATS did not answer within {_ANSWER_SECONDS} s: see its log, and `callboard doctor`."
    return f"NATS refused: {str(error).removeprefix('nats: ')}. See `callboard doctor`."


def _is_about_rights(*errors: Exception) -> bool:
    texts = [str(error).lower() for error in errors]
    return any("authorization" in text or "permissions violation" in text for text in texts)
