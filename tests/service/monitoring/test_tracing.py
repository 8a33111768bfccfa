"""Spans of requests: attributes, parents, export, and that no text is in them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.monitoring.timings import Timings
from service.monitoring.tracing import PHASES, SERVICE, Tracer, TracingError

ROOT = Path(__file__).parents[3]
MARKER = "geheimnis4711"
TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736
PARENT_ID = 0x00F067AA0BA902B7
TRACEPARENT = f"00-{TRACE_ID:032x}-{PARENT_ID:016x}-01".encode()
TIMINGS = Timings(queue=0.001, tokenize=0.0002, inference=0.0008, decode=0.0001, total=0.0022)

Headers = dict[bytes, bytes]
Record = Callable[..., tuple[ReadableSpan, ...]]


@pytest.fixture(autouse=True)
def _without_environment_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def over(**different: Any) -> Any:
    """A request that ends after a twentieth of a second."""
    request = {
        "began": time.perf_counter() - 0.05,
        "request_id": "36eb389b0ffb5816",
        "method": "POST",
        "endpoint": "/v1/nlu",
        "model": "s",
        "status": 200,
        "timings": TIMINGS,
    }
    return SimpleNamespace(**{**request, **different})


@contextmanager
def recording() -> Iterator[Record]:
    """Record one request and return its spans, in the order of their ends."""
    exporter = InMemorySpanExporter()
    tracer = Tracer.start(SimpleSpanProcessor(exporter))

    def record(headers: Headers | None = None, **different: Any) -> tuple[ReadableSpan, ...]:
        exporter.clear()
        tracer.record(over(headers=headers or {}, **different))
        return exporter.get_finished_spans()

    yield record
    tracer.shutdown()


@pytest.fixture
def record() -> Iterator[Record]:
    with recording() as recorder:
        yield recorder


def test_a_request_is_a_server_span_with_its_phases_as_children(record: Record) -> None:
    *phases, server = record()

    assert (server.name, server.kind, server.parent) == ("POST /v1/nlu", trace.SpanKind.SERVER, None)
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/nlu",
        "http.response.status_code": 200,
        "nlu.model": "s",
        "nlu.request_id": "36eb389b0ffb5816",
    }
    assert server.status.status_code is trace.StatusCode.UNSET
    assert tuple(phase.name for phase in phases) == PHASES
    for phase in phases:
        assert phase.parent == server.get_span_context()
        assert not phase.attributes


def test_times_are_those_that_were_measured(record: Record) -> None:
    before = time.time_ns()
    *phases, server = record()
    after = time.time_ns()

    assert before <= (server.end_time or 0) <= after
    assert (server.end_time or 0) - (server.start_time or 0) >= 50_000_000
    assert phases[0].start_time == server.start_time
    for phase, following in pairwise(phases):
        assert phase.end_time == following.start_time
    lengths = [(phase.end_time or 0) - (phase.start_time or 0) for phase in phases]
    assert lengths == [1_000_000, 200_000, 800_000, 100_000]


def test_a_request_that_was_not_answered_has_no_phases(record: Record) -> None:
    (server,) = record(timings=None, status=422, model="none")

    assert (server.attributes or {})["http.response.status_code"] == 422
    assert server.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_fault_of_the_service_is_an_error(record: Record, status: int) -> None:
    (server,) = record(timings=None, status=status)

    assert server.status.status_code is trace.StatusCode.ERROR
    assert server.status.description is None


def test_a_disconnected_client_has_no_status(record: Record) -> None:
    (server,) = record(timings=None, status=0)

    assert "http.response.status_code" not in (server.attributes or {})


@pytest.mark.parametrize(
    ("method", "endpoint", "name"),
    [
        ("GET", "/v1/models", "GET /v1/models"),
        ("GET", "other", "GET"),
        (MARKER, "/", "HTTP /"),
        (MARKER, "other", "HTTP"),
    ],
)
def test_names_have_only_known_paths_and_methods(record: Record, method: str, endpoint: str, name: str) -> None:
    (server,) = record(method=method, endpoint=endpoint, timings=None)

    attributes = server.attributes or {}
    assert server.name == name
    assert attributes.get("http.route") == (endpoint if endpoint != "other" else None)
    assert attributes["http.request.method"] == (method if method == "GET" else "_OTHER")


def test_the_parent_is_the_one_in_traceparent(record: Record) -> None:
    *phases, server = record({b"host": b"test", b"traceparent": TRACEPARENT})

    assert server.parent is not None
    assert (server.parent.trace_id, server.parent.span_id, server.parent.is_remote) == (TRACE_ID, PARENT_ID, True)
    for span in (*phases, server):
        assert span.get_span_context().trace_id == TRACE_ID  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "traceparent",
    [
        b"",
        b"nonsense",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        TRACEPARENT + b"-more",
        b"ff" + TRACEPARENT[2:],
        b"00-" + b"0" * 32 + TRACEPARENT[35:],
        TRACEPARENT[:36] + b"0" * 16 + b"-01",
        b"01" + TRACEPARENT[2:] + b"-" + b"x" * 1000,
        TRACEPARENT + b", " + TRACEPARENT,
    ],
)
def test_a_traceparent_that_is_not_valid_is_ignored(
    record: Record, traceparent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = record({b"traceparent": traceparent})[-1]

    assert server.parent is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("variables", "headers", "sampled"),
    [
        ({}, {}, True),
        ({}, {b"traceparent": TRACEPARENT[:-2] + b"00"}, False),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, {}, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {}, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {b"traceparent": TRACEPARENT}, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, {}, False),
        ({"OTEL_SDK_DISABLED": "true"}, {}, False),
    ],
)
def test_sampling_is_that_of_the_parent_and_the_standard_variables(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    headers: Headers,
    sampled: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with recording() as record:
        assert len(record(headers)) == (5 if sampled else 0)


def test_nothing_that_a_client_sends_is_in_a_span(record: Record) -> None:
    marker = MARKER.encode()
    headers = {
        b"traceparent": TRACEPARENT,
        b"tracestate": marker + b"=" + marker,
        b"baggage": marker + b"=" + marker,
        b"authorization": b"Bearer " + marker,
        marker: marker,
    }

    spans = record(headers, method=MARKER, endpoint="other", status=500)

    assert len(spans) == 5
    assert MARKER not in "".join(span.to_json() for span in spans)


names = st.one_of(st.sampled_from([b"traceparent", b"tracestate"]), st.binary(max_size=20))


@given(headers=st.dictionaries(names, st.binary(max_size=80) | st.just(TRACEPARENT), max_size=5))
def test_no_headers_raise(record: Record, headers: Headers) -> None:
    record(headers)


@pytest.mark.parametrize(("variable", "name"), [(None, "distilled-nlu"), ("assistant", "assistant")])
def test_the_service_has_a_name(monkeypatch: pytest.MonkeyPatch, variable: str | None, name: str) -> None:
    if variable:
        monkeypatch.setenv("OTEL_SERVICE_NAME", variable)

    with recording() as record:
        assert record()[-1].resource.attributes["service.name"] == name


def test_the_name_may_stand_among_the_resource_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=assistant,deployment.environment.name=test")

    with recording() as record:
        attributes = record()[-1].resource.attributes

    assert attributes["service.name"] == "assistant"
    assert attributes["deployment.environment.name"] == "test"


class Collector(BaseHTTPRequestHandler):
    """Stores the requests that it receives."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, self.headers["content-type"], body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        server.received = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_spans_arrive_at_a_collector(collector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tracer = Tracer.start()

    tracer.record(over(headers={b"traceparent": TRACEPARENT}, status=503))
    tracer.shutdown()

    ((path, kind, body),) = collector.received
    (group,) = ExportTraceServiceRequest.FromString(body).resource_spans
    spans = {span.name: span for span in group.scope_spans[0].spans}
    server = spans["POST /v1/nlu"]
    assert (path, kind) == ("/v1/traces", "application/x-protobuf")
    assert {entry.key: entry.value.string_value for entry in group.resource.attributes}["service.name"] == SERVICE
    assert spans.keys() == {"POST /v1/nlu", *PHASES}
    assert server.trace_id == TRACE_ID.to_bytes(16, "big")
    assert server.parent_span_id == PARENT_ID.to_bytes(8, "big")
    assert server.status.code == server.status.STATUS_CODE_ERROR
    assert server.kind == server.SPAN_KIND_SERVER
    assert all(spans[phase].parent_span_id == server.span_id for phase in PHASES)
    assert {entry.key: entry.value.int_value for entry in server.attributes}["http.response.status_code"] == 503


def test_stopping_does_not_wait_for_a_collector_that_hangs() -> None:
    released, stopped = threading.Event(), threading.Event()

    class Hanging(SpanProcessor):
        def shutdown(self) -> None:
            released.wait(10)
            stopped.set()

    Tracer.start(Hanging()).shutdown(seconds=0.001)

    assert not stopped.is_set()
    released.set()
    assert stopped.wait(10)


def test_stopping_twice_is_harmless() -> None:
    tracer = Tracer.start(SimpleSpanProcessor(InMemorySpanExporter()))

    tracer.shutdown()
    tracer.shutdown()


@pytest.mark.parametrize(
    "missing",
    ["opentelemetry.sdk.trace", "opentelemetry.sdk.resources", "opentelemetry.exporter.otlp.proto.http.trace_exporter"],
)
def test_missing_packages_are_one_sentence(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(TracingError, match=r"^tracing needs packages .*: pip install 'distilled-nlu\[tracing\]'$"):
        Tracer.start()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "OTEL_TRACES_EXPORTER",
            "zipkin",
            "OTEL_TRACES_EXPORTER=zipkin is not supported: it must be otlp or unset",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not supported: it must be http/protobuf or unset",
        ),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "tracing cannot start: max_queue_size must be a positive integer."),
    ],
)
def test_variables_that_ask_for_something_else_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(TracingError) as caught:
        Tracer.start()

    assert str(caught.value) == sentence


def test_the_module_imports_no_opentelemetry_and_tracing_sets_no_global_provider(record: Record) -> None:
    loaded = "[name for name in sys.modules if name.startswith('opentelemetry')]"
    program = f"import sys, service.monitoring.tracing; print({loaded})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    record()

    assert done.stdout.strip() == "[]"
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
