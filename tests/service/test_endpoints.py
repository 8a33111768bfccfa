"""The replies of the endpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.schemas import BatchReply, ModelsReply, NluReply

SENTENCE = "Weck mich am Freitag um 9 Uhr!"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["text", "locale", "top_k", "model", "items"])


def test_answers_domain_intent_and_slots(ask: Any) -> None:
    answer = ask(SENTENCE)

    assert answer["domain"]["name"] == "alarm"
    assert answer["intent"]["name"] == "alarm_set"
    assert [(slot["name"], slot["value"], slot["start"], slot["end"]) for slot in answer["slots"]] == [
        ("date", "Freitag", 13, 20),
        ("time", "9 Uhr", 24, 29),
    ]


def test_reply_fits_its_schema_and_names_the_model(client: Any) -> None:
    response = client.post("/v1/nlu", json={"text": SENTENCE, "locale": "de-DE", "top_k": 2})

    reply = NluReply.model_validate_json(response.content)
    assert reply.model.name == "s"
    assert len(reply.model.digest) == 12
    assert reply.in_scope is None


def test_ranking_is_there_only_with_top_k(ask: Any) -> None:
    assert "ranking" not in ask(SENTENCE)

    ranking = ask(SENTENCE, top_k=2)["ranking"]

    assert [label["name"] for label in ranking["domain"]] == ["alarm", "music"]
    assert len(ranking["intent"]) == 2


def test_model_chooses_the_student(ask: Any) -> None:
    assert ask(SENTENCE, model="german")["model"]["name"] == "german"


def test_offsets_are_code_points(ask: Any) -> None:
    text = "🙂👍🏽 morgen"

    slot = ask(text)["slots"][0]

    assert (slot["start"], slot["end"]) == (4, 10)
    assert text[slot["start"] : slot["end"]] == slot["value"] == "morgen"


def test_long_text_is_marked_truncated(ask: Any) -> None:
    assert ask("wetter " * 100)["truncated"] is True
    assert ask("wetter")["truncated"] is False


def test_unknown_locale_lists_the_known_ones(client: Any) -> None:
    response = client.post("/v1/nlu", json={"text": "hallo", "locale": "it-IT", "model": "german"})

    assert response.status_code == 422
    assert response.json()["error"]["code"] == "unknown_locale"
    assert response.json()["error"]["message"].endswith("known: de-DE")


def test_unknown_model_lists_the_loaded_ones(client: Any) -> None:
    response = client.post("/v1/nlu", json={"text": "hallo", "locale": "de-DE", "model": "zz"})

    assert response.status_code == 404
    assert response.json()["error"]["message"].endswith("loaded: german, s or default")


def test_text_over_the_limit_is_413(make_client: Any) -> None:
    client = make_client(max_text_chars=10)

    response = client.post("/v1/nlu", json={"text": "x" * 11, "locale": "de-DE"})

    assert (response.status_code, response.json()["error"]["code"]) == (413, "text_too_large")


def test_batch_keeps_order_and_fails_item_by_item(client: Any) -> None:
    items = [
        {"text": "wetter", "locale": "de-DE"},
        {"text": 3, "locale": "de-DE"},
        "no object",
        {"text": "musik", "locale": "xx-XX"},
        {"text": "musik", "locale": "de-DE"},
    ]

    response = client.post("/v1/nlu/batch", json={"items": items})

    reply = BatchReply.model_validate_json(response.content)
    results = response.json()["results"]
    assert len(reply.results) == 5
    assert [results[i]["domain"]["name"] for i in (0, 4)] == ["weather", "music"]
    assert [results[i]["error"]["code"] for i in (1, 2, 3)] == ["invalid_request", "invalid_request", "unknown_locale"]


def test_lone_surrogate_fails_only_its_item(client: Any) -> None:
    body = rb'{"items":[{"text":"\ud800","locale":"de-DE"},{"text":"wetter","locale":"de-DE"}]}'

    results = client.post("/v1/nlu/batch", content=body).json()["results"]

    assert results[0]["error"]["message"].startswith("text: ")
    assert results[1]["domain"]["name"] == "weather"


def test_answer_in_a_batch_is_the_answer_alone(client: Any, ask: Any) -> None:
    alone = ask(SENTENCE, top_k=3)
    items = [{"text": text, "locale": "de-DE", "top_k": 3} for text in ("wetter " * 60, SENTENCE)]

    beside = client.post("/v1/nlu/batch", json={"items": items}).json()["results"][1]

    assert all(beside[key] == alone[key] for key in ("domain", "intent", "slots", "ranking"))


@pytest.mark.parametrize(
    ("items", "status", "code"), [(4, 413, "batch_too_large"), (0, 422, "invalid_request"), (3, 200, None)]
)
def test_batch_size_is_bounded(make_client: Any, items: int, status: int, code: str | None) -> None:
    client = make_client(max_batch=3)

    response = client.post("/v1/nlu/batch", json={"items": [{"text": "hallo", "locale": "de-DE"}] * items})

    assert response.status_code == status
    assert response.json().get("error", {}).get("code") == code


def test_models_summarises_manifests(client: Any) -> None:
    reply = ModelsReply.model_validate_json(client.get("/v1/models").content)

    assert [(model.name, model.default) for model in reply.models] == [("german", False), ("s", True)]
    assert reply.models[1].slots == ["date", "place_name", "time"]
    assert reply.refused == []


@pytest.mark.parametrize("path", ["/livez", "/v2/health/live", "/readyz", "/v2/health/ready"])
def test_healthy(client: Any, path: str) -> None:
    assert client.get(path).status_code == 200


def test_one_bad_student_is_not_ready_but_the_others_answer(make_client: Any, folder: Path, students: Path) -> None:
    bad = folder.rename(folder.with_name("bad"))
    (bad / "model.onnx").write_bytes(b"no graph")
    (folder.parent / "good").symlink_to(students / "german")

    client = make_client(folder.parent)

    assert client.get("/livez").status_code == 200
    not_ready = client.get("/readyz")
    assert not_ready.status_code == 503
    assert str(bad) in not_ready.json()["error"]["message"]
    assert client.post("/v1/nlu", json={"text": "wetter", "locale": "de-DE"}).status_code == 200


def test_only_bad_students_is_503(make_client: Any, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no graph")
    client = make_client(folder)

    response = client.post("/v1/nlu", json={"text": "wetter", "locale": "de-DE"})

    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")


@settings(max_examples=150)
@given(path=st.sampled_from(["/v1/nlu", "/v1/nlu/batch"]), body=JSON | st.dictionaries(FIELDS, JSON))
def test_no_json_makes_a_500(client: Any, path: str, body: Any) -> None:
    assert client.post(path, content=json.dumps(body)).status_code in (200, 404, 413, 422)


@settings(max_examples=100)
@given(body=st.binary(max_size=60))
def test_no_bytes_make_a_500(client: Any, body: bytes) -> None:
    assert client.post("/v1/nlu", content=body).status_code in (200, 422)
