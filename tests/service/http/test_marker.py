"""Data of clients is in no error, log line, metric or span: requests have a marker everywhere, which must not appear.

Two things are repeated by contract: a well-formed ``x-request-id``, and the name of a field that looks like one. The
marker is neither.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.errors import TABLE
from service.monitoring.tracing import Tracer
from service.student.student import Student
from tests.service.conftest import write_student
from tests.service.server import PATIENCE, Server, until

WORDS = ("geheimnis", "xylophon")  # no hexadecimal digits, no part of any name here
MARKER = " ".join(WORDS)
KEY = "a-key-of-many-characters"
BODY = {"text": MARKER, "locale": "de-DE"}
EVERYWHERE = {
    "x-request-id": MARKER,
    "x-anything": MARKER,
    WORDS[0]: MARKER,
    "user-agent": MARKER,
    "cookie": f"{WORDS[0]}={WORDS[1]}",
    "referer": f"http://{WORDS[0]}/{WORDS[1]}",
    "tracestate": f"{WORDS[0]}={WORDS[1]}",
    "baggage": f"{WORDS[0]}={WORDS[1]}",
    "traceparent": MARKER,
    "x-forwarded-for": MARKER,
}
QUERY = f"?{quote(MARKER)}={quote(MARKER)}"
TYPED = "content-type: application/json"
NLU, BATCH = f"/v1/nlu{QUERY}", f"/v1/nlu/batch{QUERY}"


def _raw(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, "host: localhost", "connection: close", *headers, "\r\n"]).encode() + body


BROKEN = [
    *(_raw(f"{WORDS[0].upper()} / HTTP/1.1"), _raw(f"GET /{MARKER} HTTP/1.1"), _raw(f"GET / {MARKER}")),
    *(_raw("GET /livez HTTP/1.1", MARKER), _raw("GET /livez HTTP/1.1", f"{MARKER}: x")),
    _raw("GET /livez HTTP/1.1", f"x: {MARKER}\0"),
    _raw("POST /v1/nlu HTTP/1.1", f"content-length: {MARKER}", body=MARKER.encode()),
    _raw("POST /v1/nlu HTTP/1.1", "transfer-encoding: chunked", body=MARKER.encode()),
    MARKER.encode() * 100 + b"\r\n\r\n",
]
ODD = [
    *(_raw(f"GET /{quote(MARKER)}{QUERY} HTTP/1.1"), _raw(f"OPTIONS {WORDS[0]}:80 HTTP/1.1")),
    *(_raw(f"CONNECT {WORDS[0]}:80 HTTP/1.1"), _raw(f"GET http://{WORDS[0]}/{WORDS[1]} HTTP/1.1")),
    _raw("GET /livez HTTP/1.1", f"upgrade: {MARKER}"),
    _raw("GET /livez HTTP/1.1", "connection: upgrade", f"upgrade: {WORDS[0]}"),
    _raw("POST /v1/nlu HTTP/1.1", f"transfer-encoding: {MARKER}", body=MARKER.encode()),
    _raw("POST /v1/nlu HTTP/1.1", f"expect: {MARKER}", TYPED, "content-length: 18", body=MARKER.encode()),
    _raw("POST /v1/nlu HTTP/1.1", TYPED, "content-length: 99", body=MARKER.encode()),  # the rest never comes
    *(_raw(f"GET /livez#{MARKER} HTTP/1.1"), _raw("GET /livez HTTP/1.1", f"host: {MARKER}")),
]


class SentReply(NamedTuple):
    """A reply: status, and everything that was sent."""

    status: int
    sent: str


class Service:
    """An application in this process, its output, and a client that sends the marker everywhere."""

    def __init__(self, client: Any, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture) -> None:
        self.client = client
        self._spans = spans
        self._caplog = caplog

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> SentReply:
        """Send a request over HTTP."""
        reply: httpx.Response = self.client.send(method, path, headers=EVERYWHERE | (headers or {}), **options)
        return SentReply(reply.status_code, f"{reply.headers}\n{reply.text}")

    def post(self, *bodies: Any, path: str = NLU, **options: Any) -> list[SentReply]:
        """Send bodies as JSON, escaped where that is the only way."""
        return [self.send("POST", path, content=json.dumps(body).encode(), **options) for body in bodies]

    def receive(self, *messages: Any) -> SentReply:
        """Let the application receive these ASGI messages, and then nothing."""
        sent: list[Any] = []
        coming = iter(messages)

        async def receive() -> Any:
            for message in coming:
                return message
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        headers += [(name.encode(), value.encode()) for name, value in EVERYWHERE.items()]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/nlu",
            "headers": headers,
            "query_string": QUERY.encode(),
        }
        self.client.call(self.client.app, scope, receive, send)
        return SentReply(sent[0]["status"] if sent else 499, str(sent))

    def exchange(self, *raw: bytes) -> list[SentReply]:
        """Send bytes, each on a connection of its own; what comes back until the service closes it."""
        with self.client.listening() as port:
            replies = [_exchange(port, each) for each in raw]
        return [SentReply(int(reply[9:12]), reply.decode()) for reply in replies]

    def output(self) -> str:
        """All metrics, log lines and spans."""
        metrics = self.client.get("/metrics").text
        ours = [record for record in self._caplog.records if not record.name.startswith(("httpx", "httpcore"))]
        logged = [f"{record.getMessage()} {record.__dict__} {record.exc_info}" for record in ours]
        spans = [span.to_json() for span in self._spans.get_finished_spans()]
        assert spans
        return "\n".join([metrics, *logged, *spans])


StartService = Callable[..., Service]


@pytest.fixture
def start(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[StartService]:
    """Start a service with tracing and debug logs."""
    caplog.set_level(logging.DEBUG)
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    tracers = []

    def begin(*root: Path, **settings: Any) -> Service:
        spans = InMemorySpanExporter()
        client = make_client(*root, **settings)
        client.app.tracer = Tracer.start(SimpleSpanProcessor(spans))
        tracers.append(client.app.tracer)
        return Service(client, spans, caplog)

    yield begin
    for tracer in tracers:
        tracer.shutdown()


def found_in(text: str) -> list[str]:
    """The words of the marker in a text, in upper or lower case."""
    return [word for word in WORDS if word in text.casefold()]


class Provoke:
    """Makes the service answer with each kind of error."""

    def __init__(self, start: StartService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
        self.start = start
        self.patch = monkeypatch
        self.keys = tmp_path / "keys"
        self.keys.write_text(KEY)
        self.folder = folder

    def bad_http(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        return service, service.exchange(*BROKEN)

    def head_timeout(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        self.patch.setattr("service.http.connection.HEAD_SECONDS", 0.01)
        return service, service.exchange(f"GET /{WORDS[0]} HTTP/1.1\r\nx: {MARKER}".encode())

    def head_too_large(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        return service, service.exchange(_raw("GET /livez HTTP/1.1", f"x: {MARKER * 5000}"))

    def invalid_request(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        bodies: list[Any] = [
            MARKER,
            [MARKER],
            {MARKER: MARKER},
            {**BODY, MARKER: MARKER},
            {**BODY, "locale": [MARKER]},
            {**BODY, "model": {MARKER: MARKER}},
            {**BODY, "top_k": MARKER},
            {**BODY, "text": [MARKER]},
            {**BODY, "text": MARKER + "\0"},
            {**BODY, "text": MARKER + "\ud800"},
            {**BODY, "allowed_intents": [MARKER]},
            {"items": MARKER},
            {"items": [BODY], MARKER: MARKER},
        ]
        raw = [MARKER.encode(), f'{{"text":"{MARKER}'.encode(), b'"\xff' + MARKER.encode(), f'{{"{MARKER}"'.encode()]
        return service, [
            *service.post(*bodies),
            *service.post(*bodies[:4], *bodies[-2:], path=BATCH),
            *(service.send("POST", NLU, content=content) for content in raw),
            *service.post(BODY, headers={"x-deadline-ms": MARKER}),
            *service.post({"request_id": MARKER, "outcome": MARKER}, path="/v1/feedback"),
            *service.post({**BODY, "models": MARKER}, path="/v1/compare"),
        ]

    def unsupported_media_type(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        return service, service.post(BODY, headers={"content-type": f"text/{WORDS[0]}; {WORDS[1]}"})

    def unknown_locale(self) -> tuple[Service, list[SentReply]]:
        service = self.start(locale_fallback="de-AT=de-DE")
        return service, service.post({**BODY, "locale": MARKER})

    def missing_head(self) -> tuple[Service, list[SentReply]]:
        write_student(self.folder.parent / "icner", "icner", heads=("intent", "slots"))
        service = self.start(self.folder.parent)
        body = {**BODY, "text": f"wetter {MARKER}", "model": "icner"}
        answers = service.post({**body, "allowed_domains": [MARKER]})
        return service, answers + service.post({**body, "allowed_domains": [MARKER]}, path="/v1/domain")

    def unknown_model(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        answers = service.post({**BODY, "model": MARKER})
        return service, answers + service.post({"items": [BODY], "model": MARKER}, path=BATCH)

    def not_found(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        paths = [f"/{quote(MARKER)}", f"/v1/nlu/{quote(MARKER)}", f"/v1/nlu{quote(MARKER)}", f"/docs/{WORDS[0]}"]
        return service, [service.send(method, path) for path in paths for method in ("GET", "POST")]

    def method_not_allowed(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        paths = [NLU, BATCH, f"/livez{QUERY}", f"/docs{QUERY}", f"/openapi.json{QUERY}"]
        return service, [service.send(WORDS[0].upper(), path, json=BODY) for path in paths]

    def body_too_large(self) -> tuple[Service, list[SentReply]]:
        service = self.start(max_body_bytes=1024, max_text_chars=1024)
        content = (MARKER * 100).encode()

        async def in_chunks() -> AsyncIterator[bytes]:
            yield content

        return service, [service.send("POST", NLU, content=each) for each in (content, in_chunks())]

    def batch_too_large(self) -> tuple[Service, list[SentReply]]:
        service = self.start(max_batch=2)
        return service, service.post({"items": [BODY] * 3}, path=BATCH)

    def text_too_large(self) -> tuple[Service, list[SentReply]]:
        service = self.start(max_text_chars=5)
        return service, service.post(BODY)

    def unauthorized(self) -> tuple[Service, list[SentReply]]:
        service = self.start(api_keys_file=self.keys)
        keys = [{"x-api-key": MARKER}, {"authorization": f"Bearer {MARKER}"}, {"authorization": MARKER}]
        return service, [answer for headers in keys for answer in service.post(BODY, headers=headers)]

    def forbidden(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        return service, service.post(BODY, path=f"/v1/models/reload{QUERY}", headers={"x-api-key": MARKER})

    def body_timeout(self) -> tuple[Service, list[SentReply]]:
        service = self.start(body_seconds=1)
        return service, [service.receive({"type": "http.request", "body": MARKER.encode(), "more_body": True})]

    def reload_refused(self) -> tuple[Service, list[SentReply]]:
        service = self.start(self.folder.parent, api_keys_file=self.keys)
        (self.folder / "model.onnx").write_bytes(b"")
        return service, service.post(BODY, path=f"/v1/models/reload{QUERY}", headers={"x-api-key": KEY})

    def overloaded(self) -> tuple[Service, list[SentReply]]:
        service = self.start(permits=1, max_batch=1)
        with service.client.app.state.registry.models["s"].queue.admit(1):
            return service, service.post(BODY) + service.post({"items": [BODY]}, path=BATCH)

    def deadline_passed(self) -> tuple[Service, list[SentReply]]:
        service = self.start(deadline_ms=1)
        perf_counter = time.perf_counter
        self.patch.setattr(time, "perf_counter", lambda: perf_counter() + 1)
        return service, service.post(BODY)

    def not_ready(self) -> tuple[Service, list[SentReply]]:
        service = self.start(aliases="default=missing")
        return service, [*service.post(BODY), service.send("GET", f"/readyz{QUERY}")]

    def internal_error(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        self.patch.setattr(Student, "predict_each", _burst)
        return service, service.post(BODY) + service.post(BODY, headers={"x-deadline-ms": "3600000"})

    def client_left(self) -> tuple[Service, list[SentReply]]:
        service = self.start()
        half = {"type": "http.request", "body": MARKER.encode(), "more_body": True}
        return service, [service.receive(half, {"type": "http.disconnect"})]


def _burst(*arguments: Any, **more: Any) -> Any:
    """Fail with all arguments in the message, as a library might."""
    raise ValueError(f"cannot read {MARKER} of {arguments} and {more}")


@pytest.fixture
def provoke(start: StartService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> Provoke:
    return Provoke(start, monkeypatch, tmp_path, folder)


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_no_error_repeats_what_was_sent(provoke: Provoke, row: Any) -> None:
    service, answers = getattr(provoke, row.code)()

    assert {answer.status for answer in answers} == {row.status}
    assert all(row.code in answer.sent for answer in answers) or row.code == "client_left"
    assert [found_in(answer.sent) for answer in answers] == [[]] * len(answers)
    assert found_in(service.output()) == []


def test_no_error_of_an_item_repeats_what_was_sent(start: StartService) -> None:
    service = start(max_text_chars=30)
    items = [
        *(MARKER, [MARKER], {MARKER: MARKER}, {**BODY, MARKER: MARKER}, {**BODY, "locale": MARKER}),
        *({**BODY, "text": MARKER * 9}, {**BODY, "text": MARKER + "\ud800"}, {**BODY, "top_k": MARKER}),
    ]

    (answer,) = service.post({"items": items}, path=BATCH)

    assert (answer.status, answer.sent.count('"error"')) == (200, len(items))
    assert found_in(answer.sent + service.output()) == []


@pytest.mark.parametrize("settings", [{}, {"cache_entries": 10, "locale_fallback": "de-AT=de-DE"}])
def test_no_success_is_logged_counted_or_traced_with_what_was_sent(start: StartService, settings: Any) -> None:
    service = start(**settings)
    long = {**BODY, "text": f"wetter in berlin {MARKER} " * 20, "top_k": 3}

    answers = service.post(BODY, BODY, long) + service.post({"items": [BODY, long]}, path=BATCH)
    answers += [service.send("GET", f"{path}{QUERY}") for path in ("/", "/docs", "/livez", "/readyz", "/v1/models")]

    assert {answer.status for answer in answers} == {200}
    assert found_in(service.output()) == []


def test_no_other_protocol_tells_what_was_sent(start: StartService) -> None:
    service = start(default_locale="de-DE", max_text_chars=30)
    infer = "/v2/models/s/infer"

    def inputs(*texts: Any, **more: Any) -> dict[str, Any]:
        return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts, **more}]}

    answered = service.post({"text": MARKER, "message_id": "m"}, path="/model/parse") + service.post(
        inputs(MARKER, MARKER), path=infer
    )
    refused = [
        *service.post({"text": MARKER}, path=f"/model/parse{QUERY}"),
        *service.post({"text": [MARKER]}, {"text": MARKER * 9}, {MARKER: MARKER}, MARKER, path="/model/parse"),
        *service.post({"text": MARKER, "lang": MARKER}, path="/model/parse"),
        *service.post({"text": MARKER}, path=f"/model/parse?model={quote(MARKER)}"),
        *service.post(inputs(MARKER * 9), inputs([MARKER], 3), inputs(MARKER, **{MARKER: MARKER}), MARKER, path=infer),
        *service.post(inputs(MARKER), path=f"/v2/models/{quote(MARKER)}/infer"),
        service.send("POST", infer, content=MARKER.encode(), headers={"inference-header-content-length": "5"}),
    ]

    assert {answer.status for answer in answered} == {200}
    assert {answer.status for answer in refused} == {404, 413, 422}
    assert [found_in(answer.sent) for answer in refused] == [[]] * len(refused)
    assert found_in(service.output()) == []


def test_no_experiment_tells_what_was_sent(start: StartService, tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('[arms.control]\nmodel = "s"\nweight = 1\n[shadow]\nmodel = "german"\nshare = 1\n')
    service = start(experiment_file=file)
    headers = {"x-client-key": MARKER, "x-request-id": "mine"}
    text = f"wetter in berlin {MARKER}"

    answers = service.post({**BODY, "text": text}, {**BODY, "text": f"{text} bitte"}, headers=headers)
    answers += service.post({"request_id": "mine", "outcome": "abandoned"}, path="/v1/feedback", headers=headers)
    answers += service.post({**BODY, "text": text}, path="/v1/compare") + service.post(BODY, path="/v1/domain")
    until(lambda: service.client.metric("nlu_shadow_total") > 0)

    output = service.output()
    assert {answer.status for answer in answers} == {200}
    assert 'sign="rephrase"' in output
    assert found_in(output) == []


@pytest.mark.parametrize(
    "place",
    [
        "service.student.student.Student.predict_each",
        "service.student.tokenization.TextEncoder.encode",
        "service.student.predictor.decode_slots",
        "service.models.queue.ModelQueue.admit",
        "service.models.queue.LoadedModel.answer_admitted",
        "service.models.queue.LoadedModel.question_of",
        "service.endpoints.nlu_body",
        "service.endpoints.json_reply",
        "service.http.requests.parse_body",
        "service.http.middleware.read_body",
    ],
)
def test_no_crash_is_logged_with_what_was_sent(
    start: StartService, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    service = start()
    monkeypatch.setattr(place, _burst)

    answers = service.post({**BODY, "text": f"weck mich um neun {MARKER}"})
    answers += service.post({"items": [BODY, BODY]}, path=BATCH)
    monkeypatch.undo()

    output = service.output()
    assert {answer.status for answer in answers} <= {200, 500}
    assert "failed: ValueError at " in output
    assert found_in(output) == []
    assert [found_in(answer.sent) for answer in answers if answer.status == 500] != []
    assert not any(found_in(answer.sent) for answer in answers if answer.status == 500)


def test_no_broken_http_is_repeated_either(students: Path) -> None:
    with Server("--students", str(students), "--log-level", "debug", "--body-seconds", "1") as server:
        replies = [_exchange(server.port, raw) for raw in (*BROKEN, *ODD)]
        metrics = server.ask("GET", "/metrics").content.decode()
        code = server.stop()
        assert server.process.stdout is not None
        output = server.log() + server.process.stdout.read()

    assert code == 0
    assert {reply[9:12] for reply in replies} >= {b"200", b"400", b"404", b"408"}
    assert not any(found_in(reply.decode()) for reply in replies)
    assert found_in(metrics + output) == []


def _exchange(port: int, raw: bytes) -> bytes:
    """Everything that the service sends until it closes the connection."""
    with closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        connection.sendall(raw)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
