"""Structured logs: one JSON object a line, with the request, its trace and the key's name where there are such."""

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

import orjson
from pythonjsonlogger.orjson import OrjsonFormatter

from common.errors import BrokenOff
from common.tracing import trace_id, traceparent

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
key_name: ContextVar[str | None] = ContextVar("key_name", default=None)

_SECONDS_BETWEEN_REPEATS = 60.0

_lines: list[bytes] = []


class _Formatter(OrjsonFormatter):
    def __init__(self, service: str) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"service": service},
            timestamp="time",
        )


def _add_request(record: logging.LogRecord) -> bool:
    if request := request_id.get():
        record.request_id = request
        record.key = key_name.get()
    if span := traceparent.get():
        record.trace_id = trace_id(span)
    return True


def _is_not_logged_yet(record: logging.LogRecord) -> bool:
    """uvicorn logs every exception that it closes a connection for; the app logged the cause of a BrokenOff."""
    return not (record.exc_info and isinstance(record.exc_info[1], BrokenOff))


def configure_logging(service: str, level: str) -> None:
    """Send every log line of this process to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(service))
    handler.addFilter(_add_request)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").addFilter(_is_not_logged_yet)
    for name in ("httpx", "httpcore", "nats", "pymongo", "uvicorn.access"):
        # These name whole URLs or queries, which may hold what must stay private.
        logging.getLogger(name).setLevel(logging.WARNING)


class LogThrottle:
    """Allows each text once a minute, also where several take turns."""

    def __init__(self) -> None:
        self._next_at: dict[str, float] = {}

    def allows(self, text: str) -> bool:
        """Whether to log this now."""
        now = time.monotonic()
        self._next_at = {one: at for one, at in self._next_at.items() if at > now}
        if text in self._next_at:
            return False
        self._next_at[text] = now + _SECONDS_BETWEEN_REPEATS
        return True


def log_fields(logger: logging.Logger, fields: Mapping[str, object]) -> None:
    """A line of level INFO with these fields, of the shape of all others, written in this turn of the event loop.

    For what is logged at every request: measured, logging's own way costs five times as much. Lines of one turn
    are written together.
    """
    if logger.isEnabledFor(logging.INFO):
        if not _lines:
            asyncio.get_running_loop().call_soon(_write_lines)
        line = {"level": "INFO", "logger": logger.name, **fields, "time": datetime.now(UTC)}
        _lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _write_lines() -> None:
    lines = b"".join(_lines).decode()
    _lines.clear()
    sys.stderr.write(lines)
