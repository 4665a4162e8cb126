"""The way of one request: its route, what it must pass, the service that answers it, and the log line.

This is plain ASGI, outside of FastAPI's routing: every request crosses it, so each call in it counts.
"""

import itertools
import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import metrics
from common.app import ResponseWatch, internal_error
from common.errors import ServiceError
from common.logs import key_name, log_fields, request_id
from common.outgoing.headers import KEY_NAME_HEADER, REQUEST_ID_HEADER
from common.outgoing.message import Answer, Header, Outgoing
from common.tracing import TRACEPARENT_HEADER, RequestSpan, Tracer, trace_id
from gateway.errors import MethodNotAllowed, MissingKey
from gateway.incoming import client_address, read_body, read_headers, read_query
from gateway.models import Network
from gateway.policies import Call, Policy, SeesRefusals
from gateway.routes import Route, Routes
from gateway.upstreams import Upstreams

logger = logging.getLogger(__name__)
access_log = logging.getLogger("gateway.access")

_PROBED = frozenset({b"/healthz", b"/readyz"})
_OF_THE_MOMENT = _PROBED | {b"/status"}
OWN_PAGES = _OF_THE_MOMENT | {b"/docs", b"/openapi.json"}

_process = secrets.token_hex(8)
_requests = itertools.count(1)

_NOT_STORED = (b"cache-control", b"no-store")
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_KEY_NAME = KEY_NAME_HEADER.encode()
_TRACEPARENT = TRACEPARENT_HEADER.encode()


class Door:
    """The outermost layer: the gateway's own pages go on to FastAPI, all else to the proxy.

    The probes of orchestrators are neither logged nor counted, unless they fail for a reason that nobody expected:
    they come every few seconds, and 503 is what they are told while the gateway starts or stops.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for HTTP only."""
        if scope["raw_path"] in OWN_PAGES:
            await self._answer_page(scope, receive, send)
        else:
            await scope["app"].state.proxy(scope, receive, send)

    async def _answer_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = _Record(_new_request_id(), time.perf_counter(), scope["path"])
        if scope["method"] in ("GET", "HEAD"):
            record.method = scope["method"]
        request_id.set(record.request)
        key_name.set(None)

        async def send_with_request_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(_REQUEST_ID, record.request.encode())]
                if scope["raw_path"] in _OF_THE_MOMENT:
                    added.append(_NOT_STORED)
                message["headers"] = [*message["headers"], *added]
            await send(message)

        watch = ResponseWatch(send_with_request_id)
        try:
            await self._app(scope, receive, watch)
        except Exception:
            await watch.answer_failure(scope, receive, record.request)
        finally:
            if watch.status == 500 or scope["raw_path"] not in _PROBED:
                record.tell(watch.status)


def _new_request_id() -> str:
    return f"{_process}-{next(_requests):x}"


class Proxy:
    """Forwards what is public to the service behind it, once every policy lets it pass."""

    def __init__(
        self,
        routes: Routes,
        policies: Sequence[Policy],
        upstreams: Upstreams,
        trusted_proxies: Sequence[Network],
        tracer: Tracer | None = None,
        patience: float = 1.0,
    ) -> None:
        self._patience = patience
        self._routes = routes
        self._checks = [policy.check for policy in policies]
        self._refused = [policy.refused for policy in policies if isinstance(policy, SeesRefusals)]
        self._upstreams = upstreams
        self._trusted_proxies = trusted_proxies
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for HTTP only."""
        record = _Record(_new_request_id(), time.perf_counter())
        request_id.set(record.request)
        key_name.set(None)
        if self._tracer is not None:
            record.span = self._tracer.start_request()
        try:
            path = scope["raw_path"].decode("latin-1")
            methods, parameters = self._routes.find(path)
            route = methods.get(scope["method"])
            if route is None:
                record.route = next(iter(methods.values())).path
                raise MethodNotAllowed(methods)
            record.route, record.method = route.path, route.method
            record.is_personal = route.method == "GET" and not route.anyone
            headers, forwarded = read_headers(scope["headers"])
            pairs, query = read_query(scope["query_string"])
            peer = scope["client"][0] if scope["client"] else ""
            address = client_address(peer, headers.get("x-forwarded-for", ""), self._trusted_proxies)
            call = record.call = Call(route, parameters, headers, pairs, address)
            await self._admit(call)
            body = await read_body(receive, headers, route.max_body_bytes)
            outgoing = Outgoing(
                route.method,
                path,
                query,
                _signed(forwarded, record, call),
                body,
                route.seconds * self._patience,
                _is_repeatable(route, forwarded),
            )
            record.sent = time.perf_counter()
            answer = await self._upstreams.send(route.service, outgoing)
        except ServiceError as error:
            answer = refusal(error)
        except Exception:
            logger.exception("unexpected error")
            failure = internal_error(record.request)
            answer = Answer(500, failure.raw_headers, bytes(failure.body))
        record.answered = time.perf_counter()
        answer.headers.append((_REQUEST_ID, record.request.encode()))
        if record.is_personal:  # errors too: a stored 401 would outlive the key's repair
            answer.headers.append(_NOT_STORED)
        if record.call is not None:
            answer.headers.extend(record.call.answer_headers)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})
        record.tell(answer.status)

    async def _admit(self, call: Call) -> None:
        """Raises what the first policy raises that does not let the request pass."""
        try:
            for check in self._checks:
                await check(call)
        except ServiceError as error:
            for refused in self._refused:
                await refused(call, error)
            raise
        finally:
            if call.key is not None:
                key_name.set(call.key.name)
        if call.key is None and not call.route.anyone:
            raise MissingKey


def _signed(forwarded: list[Header], record: "_Record", call: Call) -> list[Header]:
    """The headers with what services believe, as it comes with the internal token."""
    forwarded.append((_REQUEST_ID, record.request.encode()))
    if record.span is not None:
        forwarded.append((_TRACEPARENT, record.span.traceparent.encode()))
    if call.key is not None:
        forwarded.append((_KEY_NAME, call.key.name.encode()))
    return forwarded


def _is_repeatable(route: Route, forwarded: Sequence[Header]) -> bool:
    return route.method == "GET" or (
        route.idempotent and any(name == b"idempotency-key" for name, _ in forwarded)
    )


def refusal(error: ServiceError) -> Answer:
    """The answer that tells of this error."""
    body = json.dumps(error.body(), separators=(",", ":"), ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return Answer(error.status, headers, body)


@dataclass(slots=True)
class _Record:
    """What the log, the metrics and the trace tell of a request."""

    request: str
    started: float
    route: str = "other"
    method: str = "other"
    is_personal: bool = False
    """Whether it reads what a key is needed for, which no cache may keep."""
    call: Call | None = None
    sent: float | None = None
    answered: float = 0.0
    span: RequestSpan | None = None

    def tell(self, status: int) -> None:
        """Tell that the request was answered."""
        seconds = time.perf_counter() - self.started
        key = self.call.key.name if self.call and self.call.key else None
        count, duration = _metrics_of(self.method, self.route, status, key or "")
        count.inc()
        duration.observe(seconds)
        upstream_seconds = None
        if self.call and self.sent:
            upstream_seconds = self.answered - self.sent
            _upstream_seconds(self.call.route.service).observe(upstream_seconds)
        place = next(iter(self.call.values("place")), "") if self.call else ""
        fields: dict[str, object] = {
            "message": "request",
            "request_id": self.request,
            "key": key,
            "method": self.method,
            "route": self.route,
            "status": status,
            "milliseconds": _milliseconds(seconds),
            "upstream_milliseconds": _milliseconds(upstream_seconds),
            "place": place if place.isascii() and place.isdecimal() and len(place) <= 19 else None,
            "service": "gateway",
        }
        if self.span is not None:
            self.span.end(self.method, self.route, status)
            fields["trace_id"] = trace_id(self.span.traceparent)
        log_fields(access_log, fields)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


@lru_cache(4096)
def _metrics_of(method: str, route: str, status: int, key: str) -> tuple[Counter, Histogram]:
    return (
        metrics.REQUESTS.labels("gateway", method, route, status, key),
        metrics.REQUEST_SECONDS.labels("gateway", route),
    )


@lru_cache
def _upstream_seconds(upstream: str) -> Histogram:
    return metrics.UPSTREAM_SECONDS.labels(upstream)
