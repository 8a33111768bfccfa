"""The Python client, against a service and against its OpenAPI document."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jsonschema
import pytest

from distilled_nlu import Label, Slot, calls, client
from distilled_nlu.client import (
    ApiError,
    AsyncClient,
    Client,
    Comparison,
    ConnectionFailed,
    DeadlinePassed,
    FeedbackResult,
    ModelIdentity,
    ModelSummary,
    ServedResult,
    Timings,
)
from service.app import create_app
from service.http.schemas import ERROR_EXAMPLE, REPLY_EXAMPLE
from service.settings import Settings
from tests.service.conftest import write_student
from tests.service.server import Server

TEXT = "weck mich am freitag um neun uhr auf"
KEY = "a-key-of-many-characters"
URL = "http://service"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("students")
    write_student(root / "s")
    write_student(root / "german", name="german", locales=("de-DE",))
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    with Server("--students", str(root), "--api-keys-file", str(keys)) as server:
        yield server


@pytest.fixture(scope="module")
def nlu(server: Server) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{server.port}/", api_key=KEY, locale="de-DE") as nlu:
        yield nlu


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which take no time."""
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(client, "asyncio", SimpleNamespace(sleep=wait))
    return waits


def test_one_text(nlu: Client) -> None:
    result = nlu(TEXT)

    assert (result.text, result.locale, result.truncated, result.cached) == (TEXT, "de-DE", False, False)
    assert result.domain is not None
    assert result.intent is not None
    assert (result.domain.name, result.intent.name, len(result.intents)) == ("alarm", "alarm_set", 1)
    assert [(slot.name, TEXT[slot.start : slot.end]) for slot in result.slots or ()] == [
        ("date", "freitag"),
        ("time", "neun uhr"),
    ]
    assert result.model.name == "s"
    assert result.timings_ms.total > 0
    assert (result.kept, result.arm, result.fallback_from) == (None, None, None)


def test_options_of_one_text(nlu: Client) -> None:
    result = nlu(
        "musica", locale="it-IT", top_k=2, allowed_domains=["music", "alarm"], client_key="me", model="default"
    )

    assert [label.name for label in result.domains] == ["music", "alarm"]
    assert len(result.intents) == 2
    assert result.kept is not None
    assert 0 < (result.kept["domain"] or 0) < 1
    assert result.kept["intent"] is None


def test_batch_has_errors_in_place(nlu: Client) -> None:
    first, second, third = nlu.batch(["wetter", " ", "musica"], locale=["de-DE", "de-DE", "it-IT"])

    assert isinstance(first, ServedResult)
    assert isinstance(second, ApiError)
    assert isinstance(third, ServedResult)
    assert (first.text, third.text, third.locale) == ("wetter", "musica", "it-IT")
    assert (second.code, second.status) == ("invalid_request", 0)


def test_domain_compare_and_models(nlu: Client) -> None:
    domain = nlu.domain("wetter", top_k=2, allowed_domains=["weather", "music"])
    compared = nlu.compare("wetter in roma", locale="it-IT")
    models = nlu.models()

    assert ([label.name for label in domain.domains], domain.intents, domain.slots) == (["weather", "music"], (), None)
    assert isinstance(compared.results["s"], ServedResult)
    error = compared.results["german"]
    assert isinstance(error, ApiError)
    assert error.code == "unknown_locale"
    assert compared.agreement["exact"] is None
    assert nlu.compare("wetter", models=["s"]).results.keys() == {"s"}
    assert [(model.name, model.default, model.aliases) for model in models] == [
        ("german", False, ()),
        ("s", True, ("default",)),
    ]


def test_feedback_and_readiness(nlu: Client) -> None:
    answer = nlu(TEXT)

    assert nlu.feedback(answer.request_id, "accepted").counted
    assert not nlu.feedback(answer.request_id, "accepted", arm="control").counted
    assert nlu.is_ready()


def test_errors_name_code_and_request(nlu: Client, server: Server) -> None:
    with pytest.raises(ApiError, match="unknown_locale: locale: student s does not know it") as caught:
        nlu(TEXT, locale="xx-XX")
    assert (caught.value.status, len(caught.value.request_id)) == (422, 16)
    with Client(f"http://127.0.0.1:{server.port}", locale="de-DE") as stranger, pytest.raises(ApiError) as refused:
        stranger(TEXT)
    assert refused.value.code == "unauthorized"


def test_asyncio(server: Server) -> None:
    async def ask() -> tuple[Any, ...]:
        async with AsyncClient(f"http://127.0.0.1:{server.port}", api_key=KEY, locale="de-DE", model="s") as nlu:
            together = await asyncio.gather(*(nlu(TEXT, client_key="me") for _ in range(4)))
            feedback = await nlu.feedback(together[0].request_id, "corrected")
            others = await nlu.domain("wetter"), await nlu.compare("wetter"), await nlu.models()
            return together, await nlu.batch([TEXT]), feedback, others, await nlu.is_ready()

    together, batch, feedback, (domain, compared, models), ready = asyncio.run(ask())
    assert {answer.intent.name for answer in (*together, *batch)} == {"alarm_set"}
    assert (feedback.outcome, feedback.counted, ready) == ("corrected", True, True)
    assert (domain.domain.name, len(compared.results), len(models)) == ("weather", 2, 2)


# Retries and deadlines: both clients behave alike.


def ask_blocking(replies: Callable[[httpx.Request], httpx.Response], **options: Any) -> ServedResult:
    with Client(URL, locale="de-DE", transport=httpx.MockTransport(replies), **options) as nlu:
        return nlu(TEXT)


def ask_by_asyncio(replies: Callable[[httpx.Request], httpx.Response], **options: Any) -> ServedResult:
    async def ask() -> ServedResult:
        async with AsyncClient(URL, locale="de-DE", transport=httpx.MockTransport(replies), **options) as nlu:
            return await nlu(TEXT)

    return asyncio.run(ask())


class Replies:
    """A service that answers with these in turn: a status, a status with ``Retry-After``, or an error of httpx."""

    def __init__(self, *replies: int | tuple[int, str] | Exception) -> None:
        self.replies = list(replies)
        self.sent: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        status, after = reply if isinstance(reply, tuple) else (reply, None)
        headers = {} if after is None else {"retry-after": after}
        return httpx.Response(status, json=REPLY_EXAMPLE if status == 200 else ERROR_EXAMPLE, headers=headers)


both = pytest.mark.parametrize("ask", [ask_blocking, ask_by_asyncio])
Ask = Callable[..., ServedResult]


@both
def test_refused_requests_are_sent_again_when_the_service_says(ask: Ask, no_waiting: list[float]) -> None:
    service = Replies((429, "3"), (503, "1"), 200)

    assert ask(service).intent == Label("alarm_set", 0.984)
    assert no_waiting == [3, 1]


@both
def test_without_a_time_the_waits_grow(ask: Ask, no_waiting: list[float]) -> None:
    service = Replies(503, httpx.ConnectError("refused"), httpx.RemoteProtocolError("closed"), 429, 200)

    ask(service, retries=4)

    assert [0.5 * 0.05 * 2**i <= wait <= 0.05 * 2**i for i, wait in enumerate(no_waiting)] == [True] * 4


@both
@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
def test_other_errors_are_not_sent_again(ask: Ask, status: int) -> None:
    service = Replies((status, "1"), 200)

    with pytest.raises(ApiError) as caught:
        ask(service)

    assert (caught.value.status, len(service.sent)) == (status, 1)


@both
def test_the_number_of_attempts_is_bounded(ask: Ask) -> None:
    service = Replies(*[(429, "1")] * 4)

    with pytest.raises(ApiError) as caught:
        ask(service, retries=3)

    assert (caught.value.status, len(service.sent)) == (429, 4)


@both
def test_no_wait_beyond_the_deadline(ask: Ask, no_waiting: list[float]) -> None:
    service = Replies((429, "60"), 200)

    with pytest.raises(ApiError):
        ask(service, deadline=30)

    assert no_waiting == []


@both
def test_the_service_is_told_the_rest_of_the_deadline(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 1.0, 4.0, 4.0])
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: next(now, 5.0)))
    service = Replies((429, "1"), 200)

    ask(service, deadline=10.0)

    assert [request.headers["x-deadline-ms"] for request in service.sent] == ["9000", "6000"]


@both
def test_a_deadline_may_pass_in_the_client_on_the_way_or_in_the_service(ask: Ask, monkeypatch: Any) -> None:
    for reply in (504, httpx.ReadTimeout("slow")):
        with pytest.raises(DeadlinePassed):
            ask(Replies(reply), deadline=5)
    now = iter([0.0])
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: next(now, 9.0)))
    with pytest.raises(DeadlinePassed, match="before the request was sent"):
        ask(Replies(), deadline=5)


@both
def test_no_service(ask: Ask) -> None:
    with pytest.raises(ConnectionFailed, match="ConnectError: refused"):
        ask(Replies(httpx.ConnectError("refused")), retries=0)


@both
@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"error": "bad gateway"}'])
@pytest.mark.parametrize("status", [200, 502])
def test_replies_of_something_else(ask: Ask, content: bytes, status: int) -> None:
    with pytest.raises(ApiError, match="is no reply of this service") as caught:
        ask(lambda _: httpx.Response(status, content=content))

    assert (caught.value.code, caught.value.status) == ("unknown_reply", status)


def test_not_ready_is_an_answer() -> None:
    service = Replies(503)

    with Client(URL, transport=httpx.MockTransport(service)) as nlu:
        assert not nlu.is_ready()


def test_bad_arguments() -> None:
    for options in ({"deadline": 0}, {"retries": -1}):
        with pytest.raises(ValueError, match="allowed: "):
            Client(URL, **options)  # type: ignore[arg-type]
    with Client(URL) as nlu:
        with pytest.raises(ValueError, match="locale is missing"):
            nlu(TEXT)
        with pytest.raises(ValueError, match="2 locales for 1 texts"):
            nlu.batch([TEXT], locale=["de-DE", "it-IT"])
        with pytest.raises(TypeError, match="texts is a string"):
            nlu.batch(TEXT, locale="de-DE")


# The OpenAPI document


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(json.dumps(create_app(Settings()).app.openapi()))


CALLS: dict[str, Callable[[Any], Any]] = {
    "/v1/nlu": lambda nlu: nlu(TEXT, top_k=3, allowed_domains=["a"], allowed_intents=["b"], model="s", client_key="me"),
    "/v1/nlu/batch": lambda nlu: nlu.batch([TEXT], top_k=3, model="s"),
    "/v1/domain": lambda nlu: nlu.domain(TEXT, top_k=3, allowed_domains=["a"], model="s"),
    "/v1/compare": lambda nlu: nlu.compare(TEXT, top_k=3, models=["s"]),
    "/v1/feedback": lambda nlu: nlu.feedback("some-id", "accepted", arm="control"),
}


@pytest.mark.parametrize("path", CALLS)
def test_requests_are_those_of_the_document(document: Any, path: str) -> None:
    service = Replies(500)
    with (
        Client(URL, locale="de-DE", deadline=5, transport=httpx.MockTransport(service)) as nlu,
        pytest.raises(ApiError),
    ):
        CALLS[path](nlu)

    (request,) = service.sent
    operation = document["paths"][request.url.path][request.method.lower()]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = json.loads(request.content)
    jsonschema.validate(body, {**schema, "components": document["components"]})
    named = schema["$ref"].rpartition("/")[2]
    assert body.keys() == document["components"]["schemas"][named]["properties"].keys()
    known = {parameter["name"] for parameter in operation.get("parameters", ())}
    assert {"x-deadline-ms", "x-client-key"} & known <= request.headers.keys()


def test_every_route_of_the_own_api_has_a_method(document: Any) -> None:
    without = {"/v1/models", "/v1/models/reload"}  # `models` has no body; a reload is the operator's

    assert {path for path in document["paths"] if path.startswith("/v1/")} - without == CALLS.keys()


@pytest.mark.parametrize(
    ("kind", "schema", "other"),
    [
        (ServedResult, "NluReply", {"text", "domains", "intents"}),
        (ModelIdentity, "ModelIdentity", set()),
        (Timings, "PhaseTimes", set()),
        (Label, "Label", set()),
        (Slot, "Slot", set()),
        (ModelSummary, "ModelSummary", set()),
        (FeedbackResult, "FeedbackReply", set()),
        (Comparison, "CompareReply", set()),
    ],
)
def test_results_have_the_fields_of_the_document(document: Any, kind: Any, schema: str, other: set[str]) -> None:
    documented = set(document["components"]["schemas"][schema]["properties"]) - {"domain", "intent", "ranking"}

    assert {field.name for field in fields(kind)} - other == documented


def test_both_clients_have_the_same_methods() -> None:
    def signatures(kind: type, close: str) -> dict[str, list[str]]:
        methods = {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if name != close}
        public = {name: method for name, method in methods.items() if name == "__call__" or name[0] != "_"}
        return {name: list(inspect.signature(method).parameters) for name, method in public.items()}

    assert signatures(Client, "close") == signatures(AsyncClient, "aclose")


def test_unknown_fields_of_a_newer_service_are_ignored() -> None:
    newer = json.loads(json.dumps(REPLY_EXAMPLE))
    newer["new"] = newer["intent"]["new"] = newer["slots"][0]["new"] = newer["timings_ms"]["new"] = 1.0

    assert ask_blocking(lambda _: httpx.Response(200, json=newer)).slots == (
        Slot("date", "freitag", 13, 20, 0.967),
        Slot("time", "neun uhr", 24, 32, 0.958),
    )
