"""The JetStream stream that holds all events: what it must be like, and why NATS refuses it."""

from collections.abc import Mapping

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from common.settings import Settings

STREAM = "CALLBOARD"
SUBJECTS = "callboard.>"

_SETTINGS = {
    "max_bytes": "CALLBOARD_STREAM_MAX_BYTES",
    "num_replicas": "CALLBOARD_STREAM_REPLICAS",
    "max_age": "CALLBOARD_STREAM_MAX_AGE_DAYS",
}
_CHECKED = ("subjects", "discard", *_SETTINGS)

_NO_ROOM = {10002, 10023, 10047, 10122}
_TOO_FEW_SERVERS = {10005, 10074}
_OTHER_STREAM = 10065
_TOO_MANY_STREAMS = 10027
_CANNOT_BE_CHANGED = 10052
_NO_JETSTREAM = {10039, 10076, None}


def wanted_stream(settings: Settings) -> StreamConfig:
    """The stream as these settings want it."""
    return StreamConfig(
        name=STREAM,
        subjects=[SUBJECTS],
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=settings.stream_max_age_days * 86_400,
        max_bytes=settings.stream_max_bytes,
        num_replicas=settings.stream_replicas,
        duplicate_window=120,
    )


async def ensure_stream(
    jetstream: JetStreamContext, settings: Settings, *, may_change: bool = True
) -> tuple[bool, str | None]:
    """Create the stream, or change it to what is wanted; whether it is new, and in which way it stays another.

    Raises what NATS says where there is none, and none can be made; see `why_refused`.
    """
    wanted = wanted_stream(settings)
    try:
        found = (await jetstream.stream_info(STREAM)).config
    except NotFoundError:
        await jetstream.add_stream(wanted)
        return True, None
    different = differences(found, wanted)
    if not different:
        return False, None
    if may_change:
        try:
            await jetstream.update_stream(wanted)
        except APIError as error:
            return False, f"{why_different(different)} {why_refused(error, settings)}"
        return False, None
    return (
        False,
        f"{why_different(different)} A service that starts changes it: restart this one, or its settings.",
    )


def why_different(different: Mapping[str, str]) -> str:
    """The differences in a sentence."""
    are = "; ".join(f"{name}: {values}" for name, values in different.items())
    return f"The stream {STREAM} is not as the settings here want it ({are})."


def differences(found: StreamConfig, wanted: StreamConfig) -> dict[str, str]:
    """What is not as wanted, by the name of its setting where it has one: "1 instead of 3"."""
    return {
        _SETTINGS.get(name, name): f"{getattr(found, name)} instead of {getattr(wanted, name)}"
        for name in _CHECKED
        if getattr(found, name) != getattr(wanted, name)
    }


def why_no_consumer(error: Exception, durable: str) -> str:
    """One sentence that says why there is no consumer, and what to change."""
    said = error.description if isinstance(error, APIError) else str(error)
    return (
        f"NATS refuses the consumer {durable}, or does not answer: {said or type(error).__name__}. Its events wait; it is "
        "tried again, and nats-server's log tells more."
    )


def why_refused(error: Exception, settings: Settings) -> str:
    """One sentence that says why there is no stream, and what to change."""
    if not isinstance(error, APIError):
        said = str(error) if isinstance(error, NatsError) else ""
        return (
            f"NATS does not answer when it is asked for the stream {STREAM}: {said or type(error).__name__}."
        )
    code, description = error.err_code, error.description
    if code in _NO_ROOM:
        return (
            f"NATS has no room for the stream {STREAM} of {settings.stream_max_bytes} bytes ({description}): set "
            "CALLBOARD_STREAM_MAX_BYTES to less, or give NATS more (max_file_store, or the limits of the account)."
        )
    if code in _TOO_FEW_SERVERS:
        return (
            f"NATS has too few servers with room for {settings.stream_replicas} copies of the stream {STREAM} "
            f"({description}): set CALLBOARD_STREAM_REPLICAS to how many there are, or CALLBOARD_STREAM_MAX_BYTES to less."
        )
    if code == _OTHER_STREAM:
        return (
            f"Another stream in NATS has subjects of {SUBJECTS} ({description}), which belong to the stream {STREAM}: "
            "take them out of it, or remove it; `nats stream ls` lists all."
        )
    if code == _TOO_MANY_STREAMS:
        return f"NATS allows this account no stream more ({description}): raise max_streams of the account."
    if code == _CANNOT_BE_CHANGED:
        return (
            f"NATS cannot change the stream {STREAM} to what Callboard needs ({description}): remove it, and it is made "
            "anew; then run `callboard verify --repair`."
        )
    if isinstance(error, ServiceUnavailableError) and code in _NO_JETSTREAM:
        return "NATS runs without JetStream, or not for this account: docs/operating.md shows what its configuration needs."
    return f"NATS refuses the stream {STREAM}: {description} (error {code})."
