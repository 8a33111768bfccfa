"""Optional tracing: a span for each request and one for each of its phases, sent by OpenTelemetry over OTLP/HTTP.

The spans are created when a request has ended, from durations that the service measures anyway. They have names that
the server knows, numbers and the request id; **never the text of a request, or data derived from it**.

Only `Tracer.start` imports OpenTelemetry, because the base install has no SDK.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from service.monitoring.timings import Timings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

SERVICE = "distilled-nlu"
PHASES = ("queue", "tokenize", "inference", "decode")
METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
OTHER_METHOD = "_OTHER"  # for unknown methods, by OpenTelemetry's semantic conventions
MAX_TRACEPARENT = 512  # bytes; the propagator would log a longer one
# the only supported values of variables that the SDK would ignore silently
SUPPORTED = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}


class TracingError(Exception):
    """Tracing can't start; the message is one sentence."""


class FinishedRequest(Protocol):
    """The attributes of a request that spans need; see `RequestContext`."""

    method: str
    endpoint: str
    headers: Mapping[bytes, bytes]
    request_id: str
    began: float
    model: str
    timings: Timings | None
    status: int


class Tracer:
    """Creates and sends the spans of one process.

    It does not set OpenTelemetry's global provider, with which FastAPI would trace raw paths and exception messages.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE)
        self._trace = trace
        self._no_parent = Context()
        self._propagator = TraceContextTextMapPropagator()
        self._failed = trace.Status(trace.StatusCode.ERROR)

    @classmethod
    def start(cls, processor: SpanProcessor | None = None) -> Tracer:
        """Start tracing, configured by the standard ``OTEL_*`` variables; call it in the process that serves.

        The default `processor` sends spans in batches, in a thread. If the collector is unreachable, they are dropped.

        Raises:
            TracingError: the packages are missing, or the value of a variable is not supported.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise TracingError(
                "tracing needs packages that are not installed: pip install 'distilled-nlu[tracing]'"
            ) from None
        _refuse_unsupported()
        try:
            name = OTELResourceDetector().detect().attributes.get("service.name")
            provider = TracerProvider(resource=Resource.create({"service.name": name or SERVICE}))
            provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        except (ValueError, RuntimeError) as error:  # the SDK refuses the value of a variable
            raise TracingError(f"tracing cannot start: {error}") from None
        return cls(provider)

    def record(self, request: FinishedRequest) -> None:
        """Create the spans of a request that ends now. Never raises, and sends nothing itself.

        The child spans follow each other from the request's arrival. Those of a batch are sums over its texts, and
        those of a cached answer may be empty. Of the headers only ``traceparent`` is read.
        """
        end = time.time_ns()
        # not by an offset from the start of the process, which would be wrong after the clock is set
        begin = end - round((time.perf_counter() - request.began) * 1e9)
        method = request.method if request.method in METHODS else OTHER_METHOD
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "nlu.model": request.model,
            "nlu.request_id": request.request_id,
        }
        name = "HTTP" if method == OTHER_METHOD else method
        if request.endpoint.startswith("/"):  # not "other", the label for unknown paths
            attributes["http.route"] = request.endpoint
            name = f"{name} {request.endpoint}"
        if request.status:  # 0 where the client disconnected before the reply
            attributes["http.response.status_code"] = request.status
        span = self._tracer.start_span(
            name, self._parent(request.headers), self._trace.SpanKind.SERVER, attributes, start_time=begin
        )
        if not span.is_recording():
            return
        if request.status >= 500:
            span.set_status(self._failed)
        if request.timings is not None:
            self._record_phases(request.timings, self._trace.set_span_in_context(span, self._no_parent), begin)
        span.end(end)

    def shutdown(self, seconds: float = 5.0) -> None:
        """Send the remaining spans. Blocks for at most `seconds`: the SDK itself would wait half a minute."""
        waiting = threading.Thread(target=self._provider.shutdown, daemon=True)
        waiting.start()
        waiting.join(seconds)

    def _record_phases(self, timings: Timings, parent: Context, begin: int) -> None:
        for phase in PHASES:
            end = begin + round(getattr(timings, phase) * 1e9)
            self._tracer.start_span(phase, parent, start_time=begin).end(end)
            begin = end

    def _parent(self, headers: Mapping[bytes, bytes]) -> Context:
        """The parent by a valid W3C ``traceparent``, if any. ``tracestate`` is ignored: it may contain anything."""
        value = headers.get(b"traceparent")
        if value is None or len(value) > MAX_TRACEPARENT:
            return self._no_parent
        return self._propagator.extract({"traceparent": value.decode("latin-1")}, self._no_parent)


def _refuse_unsupported() -> None:
    for variable, supported in SUPPORTED.items():
        value = os.environ.get(variable, "").strip()
        if value not in ("", supported):
            raise TracingError(f"{variable}={value} is not supported: it must be {supported} or unset")
