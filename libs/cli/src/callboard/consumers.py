"""What the consumers in NATS ask for."""

from collections.abc import AsyncIterator, Iterable

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from callboard.services import SERVICES, declared
from common.messaging.watch import consumer_config, filter_of, paused, unhandled
from common.plugins import Finding
from common.settings import Settings
from common.stream import STREAM

_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 5


def handled_subjects(service: str) -> set[str]:
    """The subjects that this version of the service handles."""
    return {event.SUBJECT for event in declared(service).handles}


async def examine_consumers(jetstream: JetStreamContext) -> AsyncIterator[Finding]:
    """Whether each service gets the events that it handles."""
    missing, is_right = [], True
    for service in SERVICES:
        if not (subjects := handled_subjects(service)):
            continue
        try:
            found = await jetstream.consumer_info(STREAM, service)
        except NotFoundError:
            missing.append(service)
            continue
        present = filter_of(found)
        wrong = [
            *([Finding(False, *paused(found))] if found.paused else []),
            *([_lacking(service, subjects - present)] if subjects - present else []),
            *([Finding(True, *unhandled(found, present - subjects))] if present - subjects else []),
        ]
        is_right = is_right and not wrong
        for one in wrong:
            yield one
    if missing:
        mend = "Each makes its own when it starts, and then gets all events that the stream has."
        yield Finding(True, f"NATS has no consumer yet for {', '.join(missing)}.", mend)
    elif is_right:
        yield Finding(True, "The consumers ask for what this version handles, and none is paused.")


def _lacking(service: str, subjects: Iterable[str]) -> Finding:
    return Finding(
        False,
        f"The consumer {service} does not ask for {', '.join(sorted(subjects))}, which this version handles.",
        "Start the service in this version, or run `callboard migrate`; then `callboard verify --repair`.",
    )


async def set_filters(settings: Settings) -> str | None:
    """Let each consumer that there is ask for what this version handles; answers why not, in one sentence.

    A starting service only ever adds subjects, so this removes those of handlers that are gone. It also adds those of
    new ones before the first event of the kind is published, whose service may start before the one that handles it.
    """
    try:
        client = await nats.connect(
            settings.nats_url.get_secret_value().split(","),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # of each server; otherwise 60, with pauses of 2 s
            reconnect_time_wait=0,
            connect_timeout=_CONNECT_SECONDS,
            error_cb=_ignore,
        )
    except (OSError, NatsError, TimeoutError, ValueError):
        return _left_alone("NATS does not answer")
    try:
        for service in SERVICES:
            await _set_filter(client.jetstream(timeout=_ANSWER_SECONDS), service, settings)
    except (NatsError, TimeoutError) as error:
        return _left_alone(f"NATS refuses it, or does not answer in time: {error}")
    finally:
        await client.close()
    return None


async def _set_filter(jetstream: JetStreamContext, service: str, settings: Settings) -> None:
    if not (subjects := {event.SUBJECT for event in declared(service).handles}):
        return
    try:
        if filter_of(await jetstream.consumer_info(STREAM, service)) != subjects:
            await jetstream.add_consumer(STREAM, consumer_config(service, subjects, settings.bus))
    except NotFoundError:
        pass  # it begins with all that there is, whenever the service starts


def _left_alone(why: str) -> str:
    return f"The filters of the consumers were left as they are ({why}); services add what they lack when they start."


async def _ignore(_: Exception) -> None:
    pass  # it is raised as well
