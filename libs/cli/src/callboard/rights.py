"""What each user of MongoDB and NATS may do where every service has its own: no more than it needs."""

from collections.abc import Sequence
from typing import Any

from callboard.services import DATABASES, SERVICES, declared
from common.stream import STREAM, SUBJECTS

OPS = "ops"
"""The user of the operator's command; the others are called like their service."""

_JETSTREAM = "$JS.API"


def mongodb_privileges(service: str) -> list[dict[str, Any]]:
    """What the role of a service, or of the gateway, allows in the database of its name."""

    def on(collection: str, *actions: str) -> dict[str, Any]:
        return {"resource": {"db": service, "collection": collection}, "actions": list(actions)}

    checked_at_the_start = on("", "listCollections", "listIndexes")
    if service == "gateway":  # it makes no keys, and who made them is not for it to change
        return [checked_at_the_start, on("keys", "find", "update")]
    return [checked_at_the_start, on("", "find", "insert", "update", "remove")]


def mongodb_ops_roles() -> list[dict[str, str]]:
    """The roles of OPS: data and indexes of every database."""
    return [{"db": name, "role": role} for name in DATABASES for role in ("readWrite", "dbAdmin")]


def nats_subjects(user: str) -> Sequence[str]:
    """What a service, or OPS, may publish. It may subscribe to `_INBOX.>`, where answers come."""
    if user == OPS:
        # Dead letters of any service are sent again, a restore deletes the stream, doctor asks for JetStream, and
        # a migration sets the filters of consumers.
        about = (
            f"STREAM.*.{STREAM}",
            f"CONSUMER.LIST.{STREAM}",
            f"CONSUMER.INFO.{STREAM}.*",
            f"CONSUMER.DURABLE.CREATE.{STREAM}.*",
            "INFO",
        )
        return SUBJECTS, *(f"{_JETSTREAM}.{what}" for what in about)
    produces = (
        f"callboard.{user}.>",
        *(f"{_JETSTREAM}.STREAM.{what}.{STREAM}" for what in ("INFO", "CREATE", "UPDATE")),
    )
    if not declared(user).handles:
        return produces
    return (
        *produces,
        f"{_JETSTREAM}.CONSUMER.INFO.{STREAM}.{user}",
        f"{_JETSTREAM}.CONSUMER.DURABLE.CREATE.{STREAM}.{user}",
        f"{_JETSTREAM}.CONSUMER.MSG.NEXT.{STREAM}.{user}",
        f"$JS.ACK.{STREAM}.{user}.>",
    )


def nats_users() -> Sequence[str]:
    """Who has a user of NATS: all but the gateway, which has no use for one."""
    return *SERVICES, OPS
