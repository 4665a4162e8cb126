"""Traces: what a request caused, through every service that worked on it, for an OpenTelemetry collector.

The gateway begins a trace; calls and events carry it on as a W3C `traceparent`. A span tells the route, the
status, the subject and the id of an event, never a query, a key, a token or a user.

Without `otlp_endpoint` there is no tracer, and OpenTelemetry's SDK is not imported: it takes 7 MB and a quarter of a second.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Thread
from typing import TYPE_CHECKING

from opentelemetry.trace import Span as OpenTelemetrySpan
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.settings import ProcessSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

TRACEPARENT_HEADER = "traceparent"

_PROPAGATOR = TraceContextTextMapPropagator()

traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The span that this context works for, as a W3C `traceparent`."""

_processors: dict[str, "SpanProcessor"] = {}
"""What sends spans, by endpoint: the services of a process share it, with its queue and its thread."""


def make_tracer(settings: ProcessSettings, service: str) -> "Tracer | None":
    """What makes the spans of a service; None where no collector is configured."""
    return Tracer(service, settings.otlp_endpoint) if settings.otlp_endpoint else None


def stop_tracing(seconds: float) -> None:
    """Send the spans that wait, as far as that takes no longer."""
    for processor in _processors.values():
        stop = Thread(target=processor.shutdown, daemon=True)
        stop.start()
        stop.join(seconds)


def trace_id(of: str) -> str:
    """The trace's id in a `traceparent`."""
    return of[3:35]


class Tracer:
    """Makes the spans of one service, in the words of OpenTelemetry's semantic conventions."""

    def __init__(self, service: str, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if endpoint not in _processors:
            exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
            _processors[endpoint] = BatchSpanProcessor(exporter)
        resource = Resource.create({"service.namespace": "callboard", "service.name": service})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(_processors[endpoint])
        self._service = service
        self._tracer = provider.get_tracer("callboard")

    def start_request(self, parent: str | None = None) -> "RequestSpan":
        """The span of a request, a new trace's without a parent; end it in the context that starts it."""
        return RequestSpan(self._start("HTTP", SpanKind.SERVER, parent))

    @contextmanager
    def handling(
        self, subject: str, events: Sequence[tuple[str, str | None]]
    ) -> Iterator[dict[str, Exception]]:
        """Spans of events (id, `traceparent`) of one subject that are handled together, each in its own trace.

        An event that came without a trace gets none. Put the error of each that fails into the dict, by its id.
        """
        attributes: dict[str, str | int] = {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": subject,
            "messaging.consumer.group.name": self._service,
            "messaging.batch.message_count": len(events),
        }
        spans = [
            (
                event_id,
                self._start(
                    f"process {subject}",
                    SpanKind.CONSUMER,
                    parent,
                    {**attributes, "messaging.message.id": event_id},
                ),
            )
            for event_id, parent in events
            if parent
        ]
        errors: dict[str, Exception] = {}
        try:
            yield errors
        finally:
            for event_id, span in spans:
                if event_id in errors:
                    _mark_failed(span, type(errors[event_id]).__name__)
                span.end()

    def _start(
        self, name: str, kind: SpanKind, parent: str | None, attributes: Mapping[str, str | int] | None = None
    ) -> OpenTelemetrySpan:
        context = _PROPAGATOR.extract({TRACEPARENT_HEADER: parent} if parent else {})
        return self._tracer.start_span(name, context, kind, attributes)


class RequestSpan:
    """The span of a request; until it ends, it is what its context works for."""

    def __init__(self, span: OpenTelemetrySpan) -> None:
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        self._span = span
        self._before = traceparent.set(self.traceparent)

    def end(self, method: str, route: str, status: int) -> None:
        """The request was answered; method and route are "other" where they are not Callboard's."""
        traceparent.reset(self._before)
        name = "HTTP"
        attributes: dict[str, str | int] = {
            "http.request.method": "_OTHER",
            "http.response.status_code": status,
        }
        if method != "other":
            name = attributes["http.request.method"] = method
        if route != "other":
            name = f"{name} {route}"
            attributes["http.route"] = route
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if status >= 500:
            _mark_failed(self._span, str(status))
        self._span.end()


def _mark_failed(span: OpenTelemetrySpan, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))
