"""Request ids, unexpected failures, and disconnected clients."""

from __future__ import annotations

from typing import Any

import pytest

from service.student.student import Student

MARKER = "geheimnis 4711"
TYPED = (b"content-type", b"application/json")


@pytest.mark.parametrize("request_id", ["a", "Ab-1._", "x" * 64])
def test_well_formed_request_id_is_kept(client: Any, request_id: str) -> None:
    response = client.post("/v1/nlu", json={"text": "wetter", "locale": "de-DE"}, headers={"x-request-id": request_id})

    assert response.headers["x-request-id"] == response.json()["request_id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", "<b>", "a\n"])
def test_other_request_ids_are_replaced(client: Any, request_id: str) -> None:
    response = client.get("/nowhere", headers={"x-request-id": request_id.encode()})

    generated = response.headers["x-request-id"]
    assert generated != request_id
    assert len(generated) == 16
    assert response.json()["error"]["request_id"] == generated


def test_failure_of_the_service_is_a_500_of_the_one_shape(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Student, "predict_each", _fail)

    response = client.post("/v1/nlu", json={"text": MARKER, "locale": "de-DE"})

    assert response.status_code == 500
    assert response.json()["error"].keys() == {"code", "message", "request_id"}
    assert "server-timing" not in response.headers


def test_service_answers_after_a_failure(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Student, "predict", _fail)
        client.post("/v1/nlu", json={"text": MARKER, "locale": "de-DE"})

    assert client.post("/v1/nlu", json={"text": "wetter", "locale": "de-DE"}).status_code == 200
    assert client.metric("nlu_in_flight") == 1  # the request for the metrics itself


def test_disconnected_client_is_only_counted(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/nlu", "headers": [TYPED], "query_string": b""}
    client.call(client.app, scope, receive, send)

    assert sent == []
    assert client.metric("nlu_requests_total", code="499", endpoint="/v1/nlu") == 1
    assert caplog.records == []


def _fail(_: Student, text: str, top_k: int = 1) -> None:
    raise ValueError(f"cannot read {text}")
