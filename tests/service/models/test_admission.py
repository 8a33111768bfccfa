"""Refusals: overload, deadline, API key, slow body; and the fallback of locales."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from service.http.schemas import NluReply
from service.student.student import Student

BODY = {"text": "weck mich am freitag um neun", "locale": "de-DE"}
KEY = "a-key-of-many-characters"
TYPED = (b"content-type", b"application/json")


def queue_of(client: Any, name: str = "s") -> Any:
    return client.app.state.registry.models[name].queue


def test_overload_is_429_with_retry_after(make_client: Any) -> None:
    client = make_client(permits=4, max_batch=4)

    with queue_of(client).admit(4):
        refused = client.post("/v1/nlu", json=BODY)

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert client.metric("nlu_rejected_total", reason="overload") == 1
    assert client.post("/v1/nlu", json=BODY).status_code == 200


def test_batch_takes_as_many_permits_as_it_has_items(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.models.permits.MAX_TURN_SECONDS", 0.0)
    client = make_client(permits=4, max_batch=4)

    with queue_of(client).admit(2):
        assert client.post("/v1/nlu/batch", json={"items": [BODY] * 3}).status_code == 429
        assert client.post("/v1/nlu/batch", json={"items": [BODY] * 2}).status_code == 200
    assert queue_of(client).free == 4


def test_batch_waits_for_its_turn_until_its_deadline(make_client: Any) -> None:
    client = make_client(permits=4, max_batch=4)

    with queue_of(client).admit(2):
        late = client.post("/v1/nlu/batch", json={"items": [BODY] * 3}, headers={"x-deadline-ms": "20"})

    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_passed")
    assert queue_of(client).free == 4


def test_batch_of_a_client_that_left_while_it_waited_takes_no_permits(make_client: Any) -> None:
    client = make_client(permits=4, max_batch=4)
    body = b'{"items":[{"text":"musik","locale":"de-DE"},{"text":"wetter","locale":"de-DE"}]}'
    messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(_: Any) -> None:
        raise AssertionError("the client has disconnected")

    async def wait_and_leave() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/nlu/batch", "headers": [TYPED], "query_string": b""}
        with queue_of(client).admit(3):
            waiting = asyncio.create_task(client.app(scope, receive, send))
            while queue_of(client).free and not waiting.done():  # the free permit is kept for the batch
                await asyncio.sleep(0)
        await waiting

    client.call(wait_and_leave)

    assert client.metric("nlu_requests_total", code="499") == 1
    assert queue_of(client).free == 4


def test_overload_of_a_student_does_not_affect_others(make_client: Any) -> None:
    client = make_client(permits=64)

    with queue_of(client, "german").admit(64):
        assert client.post("/v1/nlu", json={**BODY, "model": "german"}).status_code == 429
        assert client.post("/v1/nlu", json=BODY).status_code == 200


@pytest.mark.parametrize("body", [{**BODY, "locale": "xx"}, {**BODY, "text": "x" * 20_001}])
def test_permits_come_back_after_an_error(client: Any, body: Any) -> None:
    before = queue_of(client).free

    client.post("/v1/nlu", json=body)
    client.post("/v1/nlu/batch", json={"items": [body, BODY, {}]})

    assert queue_of(client).free == before


@pytest.mark.parametrize(("setting", "headers"), [(5000, {}), (None, {"x-deadline-ms": "5000"})])
def test_text_whose_turn_comes_too_late_is_504(
    make_client: Any, monkeypatch: pytest.MonkeyPatch, setting: int | None, headers: dict[str, str]
) -> None:
    monkeypatch.setattr("service.models.queue.GROUP_SECONDS", 0)  # groups of one text
    client = make_client(deadline_ms=setting)
    asked = _slow_down(monkeypatch)

    in_time = {"x-deadline-ms": "60000"}
    *answered, late = _ask_together(client, [in_time, in_time, headers])

    assert [reply.status_code for reply in (*answered, late)] == [200, 200, 504]
    assert late.json()["error"]["code"] == "deadline_passed"
    assert len(asked) == 2


def test_late_items_of_a_batch_get_errors_of_their_own(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client()
    _slow_down(monkeypatch)

    reply = client.post("/v1/nlu/batch", json={"items": [BODY] * 3}, headers={"x-deadline-ms": "5000"})

    results = reply.json()["results"]
    assert "intent" in results[0]
    assert [result["error"]["code"] for result in results[1:]] == ["deadline_passed"] * 2


@pytest.mark.parametrize("deadline", ["0", "-1", "soon", "1.5", "99999999", ""])
def test_deadline_that_is_no_number_of_milliseconds_is_422(client: Any, deadline: str) -> None:
    reply = client.post("/v1/nlu", json=BODY, headers={"x-deadline-ms": deadline})

    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith("x-deadline-ms: should be a whole number from 1 to 3600000")


def test_text_of_a_disconnected_client_is_not_run(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client()
    asked = _slow_down(monkeypatch)
    messages = [{"type": "http.request", "body": b'{"text":"musik","locale":"de-DE"}'}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(_: Any) -> None:
        raise AssertionError("the client has disconnected")

    async def both() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/nlu", "headers": [TYPED], "query_string": b""}
        await asyncio.gather(client.http.post("/v1/nlu", json=BODY), client.app(scope, receive, send))

    client.call(both)

    assert asked == [BODY["text"]]
    assert client.metric("nlu_requests_total", code="499") == 1
    assert queue_of(client).free == 128


def test_body_that_does_not_arrive_is_408_and_ends_the_connection(make_client: Any) -> None:
    client = make_client(body_seconds=1)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/nlu", "headers": [TYPED], "query_string": b""}
    client.call(client.app, scope, receive, send)

    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_locale_is_answered_as_another_only_where_configured(make_client: Any, client: Any) -> None:
    swiss = {**BODY, "locale": "de-CH"}
    refused = client.post("/v1/nlu", json=swiss)
    answer = make_client(locale_fallback="de-CH=de-DE,de-AT=xx-XX").post("/v1/nlu", json=swiss)

    assert refused.json()["error"]["code"] == "unknown_locale"
    reply = NluReply.model_validate_json(answer.content)
    assert (reply.locale, reply.fallback_from) == ("de-DE", "de-CH")
    assert "fallback_from" not in client.post("/v1/nlu", json=BODY).json()


def test_fallback_to_an_unknown_locale_is_ignored(make_client: Any) -> None:
    client = make_client(locale_fallback="de-AT=xx-XX")

    assert client.post("/v1/nlu", json={**BODY, "locale": "de-AT"}).status_code == 422


@pytest.fixture
def locked(make_client: Any, tmp_path: Path) -> Any:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n")
    return make_client(api_keys_file=file)


@pytest.mark.parametrize("headers", [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}])
def test_valid_key_is_accepted(locked: Any, headers: dict[str, str]) -> None:
    assert locked.post("/v1/nlu", json=BODY, headers=headers).status_code == 200
    assert locked.post("/v1/models/reload", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"x-api-key": KEY + "x"}, {"authorization": f"Basic {KEY}"}])
@pytest.mark.parametrize("path", ["/v1/nlu", "/v1/nlu/batch", "/v1/models/reload"])
def test_without_a_key_it_is_401(locked: Any, path: str, headers: dict[str, str]) -> None:
    refused = locked.post(path, json=BODY, headers=headers)

    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert KEY not in refused.text


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json"])
def test_health_metrics_page_and_docs_need_no_key(locked: Any, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_docs_show_where_a_key_is_needed(locked: Any, client: Any) -> None:
    document = locked.get("/openapi.json").json()

    assert document["paths"]["/v1/nlu"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "401" in document["paths"]["/v1/nlu"]["post"]["responses"]
    assert "security" not in document["paths"]["/livez"]["get"]
    assert "security" not in client.get("/openapi.json").json()["paths"]["/v1/nlu"]["post"]


def test_replies_close_the_connection_while_draining(make_client: Any) -> None:
    client = make_client()
    client.app.state.registry.draining = True

    answer = client.post("/v1/nlu", json=BODY)

    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert client.get("/readyz").json()["error"]["message"].startswith("not ready: draining")
    assert client.get("/livez").status_code == 200


def _slow_down(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Advance the clock by 10 s for each text; returns the texts that the student got."""
    asked: list[str] = []
    predict_each, perf_counter = Student.predict_each, time.perf_counter

    def slowly(student: Student, texts: Any) -> Any:
        asked.extend(question.text for question in texts)
        return predict_each(student, texts)

    monkeypatch.setattr(Student, "predict_each", slowly)
    monkeypatch.setattr(time, "perf_counter", lambda: perf_counter() + 10 * len(asked))
    return asked


def _ask_together(client: Any, headers: list[dict[str, str]]) -> Any:
    async def ask() -> Any:
        return await asyncio.gather(*(client.http.post("/v1/nlu", json=BODY, headers=each) for each in headers))

    return client.call(ask)
