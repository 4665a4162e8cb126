"""A small OpenTelemetry collector, and a machine that sends it traces."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from starlette.types import Receive, Scope, Send

from tests.gateway.builders import served
from tests.support import wait_until
from tests.support.machine import PATIENCE, SERVICES, Change, Machine, machine

Attributes = dict[str, str | int]


@dataclass(frozen=True)
class Span:
    """A span as it arrived; `parent` is "" where there is none."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    is_error: bool
    attributes: Attributes


@dataclass
class Collector:
    """Takes what OTLP over HTTP brings. `text` is all of it, in words."""

    spans: list[Span] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    text: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for HTTP only."""
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.paths.append(scope["path"])
        if scope["path"] == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(body)
            self.text += str(request)
            self.spans += [
                _span(str(_attributes(of.resource.attributes)["service.name"]), span)
                for of in request.resource_spans
                for scope_spans in of.scope_spans
                for span in scope_spans.spans
            ]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def trace(self, trace: str, number: int) -> list[Span]:
        """The spans of a trace, once there are so many of them, each after its parent."""
        await wait_until(lambda: self._is_whole(trace, number))
        found, ordered = self.of(trace), [""]
        while len(ordered) <= len(found):
            children = [span.id for span in found if span.parent in ordered and span.id not in ordered]
            assert children, found
            ordered += children
        return sorted(found, key=lambda span: ordered.index(span.id))

    def _is_whole(self, trace: str, number: int) -> bool:
        """Whether so many are there and each one's parent, which another process may send later."""
        found = self.of(trace)
        return len(found) >= number and {span.parent for span in found} <= {"", *(span.id for span in found)}

    def of(self, trace: str) -> list[Span]:
        """The spans of a trace, in the order of their arrival."""
        return [span for span in self.spans if span.trace == trace]


def _span(service: str, span: trace_pb2.Span) -> Span:
    return Span(
        service,
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        _attributes(span.attributes),
    )


def _attributes(pairs: Sequence[KeyValue]) -> Attributes:
    def value(of: AnyValue) -> str | int:
        return of.int_value if of.HasField("int_value") else of.string_value

    return {pair.key: value(pair.value) for pair in pairs}


@dataclass
class Traced:
    """A machine that sends its traces to the collector."""

    machine: Machine
    collector: Collector
    gateway: str

    async def spans(self, answer: httpx.Response, number: int) -> list[Span]:
        """The spans of the trace that the gateway's log tells of this answer, once there are so many."""
        line = await self.access_line(answer)
        return await self.collector.trace(line["trace_id"], number)

    async def access_line(self, answer: httpx.Response) -> dict[str, str]:
        """What the gateway logged of the request."""
        request = answer.headers["x-request-id"]
        await wait_until(lambda: any(self.lines(self.gateway, logger="gateway.access", request_id=request)))
        (line,) = self.lines(self.gateway, logger="gateway.access", request_id=request)
        return line

    def lines(self, process: str, **wanted: str) -> list[dict[str, str]]:
        """The log lines of a process with these fields."""
        whole = self.machine.log(process).rpartition("\n")[0].splitlines()
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in lines if wanted.items() <= line.items()]


@asynccontextmanager
async def traced(
    form: str, *, changes: Sequence[Change] = (), send_after_milliseconds: int = 50
) -> AsyncIterator[Traced]:
    """A machine in one of two forms, started, and its collector."""
    collector = Collector()
    is_one_process = form == "one process"
    names = ["callboard"] if is_one_process else [*SERVICES, "gateway"]
    async with served(collector) as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", str(send_after_milliseconds))
            async with machine(
                is_one_process=is_one_process, changes=changes, patience=PATIENCE, otlp_endpoint=url
            ) as one:
                await one.start(*names)
                yield Traced(one, collector, names[-1])
