"""Rasa's HTTP API, as clients of Rasa use it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from benchmarks.peer_servers.rasa_project import answers_of
from loadtest.load.texts import Text
from service.protocols.rasa import ParseReply, RasaError
from tests.service.conftest import write_student
from tests.service.server import Server

TEXT = "weck mich am freitag um neun uhr auf"
KEY = "a-key-of-many-characters"
SCOPE = {"method": "max_softmax", "head": "intent", "false_rejection_rate": 0.02, "thresholds": {"de-DE": 0.5}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rasa")
    write_student(root / "s", calibration={"scope": SCOPE})
    write_student(root / "german", name="german", locales=("de-DE",))
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with Server("--students", str(root), "--default-locale", "de-DE") as server:
        yield server


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def parse(server: Server, path: str = "/model/parse", **body: Any) -> httpx.Response:
    return httpx.post(url_of(server) + path, json={"text": TEXT, **body}, trust_env=False)


def test_parse_answers_as_rasa_does(server: Server) -> None:
    reply = parse(server, message_id="m1").json()

    assert list(reply) == ["text", "intent", "entities", "text_tokens", "intent_ranking", "message_id"]
    assert (reply["text"], reply["message_id"]) == (TEXT, "m1")
    assert reply["intent"] == reply["intent_ranking"][0]
    assert reply["intent"]["name"] == "alarm_set"
    assert [ranked["name"] for ranked in reply["intent_ranking"][1:]] == ["music_play", "weather_query"]
    assert [(one["entity"], one["value"], one["start"], one["end"]) for one in reply["entities"]] == [
        ("date", "freitag", 13, 20),
        ("time", "neun uhr", 24, 32),
    ]
    assert all(0.9 < one["confidence_entity"] <= 1 for one in reply["entities"])
    assert [TEXT[start:end] for start, end in reply["text_tokens"]] == TEXT.split()
    ParseReply.model_validate_json(parse(server).content)


def test_answer_is_that_of_the_own_api(server: Server) -> None:
    own = httpx.post(url_of(server) + "/v1/nlu", json={"text": TEXT, "locale": "de-DE"}, trust_env=False).json()
    reply = parse(server).json()

    assert reply["intent"] == own["intent"]
    assert [one["confidence_entity"] for one in reply["entities"]] == [slot["confidence"] for slot in own["slots"]]


def test_the_benchmark_of_rasa_reads_the_answer(server: Server) -> None:
    (answer,) = answers_of(url_of(server), [Text(TEXT, "de-DE")])

    assert answer.intent == "alarm_set"


def test_body_of_rasas_own_http_interpreter(server: Server) -> None:
    """`rasa.core.http_interpreter` sends a token, null or not, and an id beside the text, by aiohttp."""
    body = {"token": None, "text": TEXT, "message_id": "sender"}

    async def post() -> Any:
        url = f"{url_of(server)}/model/parse"
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            assert response.status == 200
            return await response.json()

    assert asyncio.run(post())["intent"]["name"] == "alarm_set"


def test_out_of_scope_text_is_a_fallback(server: Server) -> None:
    reply = parse(server, text="xyz").json()

    assert reply["intent"] == {"name": "nlu_fallback", "confidence": 1.0}
    assert [ranked["name"] for ranked in reply["intent_ranking"]][:2] == ["nlu_fallback", "alarm_set"]


def test_query_chooses_student_and_locale(server: Server) -> None:
    assert parse(server, "/model/parse?locale=it-IT").status_code == 200
    assert parse(server, lang="it-IT").status_code == 200
    refused = parse(server, "/model/parse?locale=it-IT&model=german").json()
    assert refused["message"] == "locale: student german does not know it; known: de-DE"


def test_locale_is_required_where_it_is_not_clear(make_client: Any, root: Path) -> None:
    client = make_client(root)

    refused = client.post("/model/parse", json={"text": TEXT})

    assert refused.status_code == 422
    assert refused.json()["message"].startswith("locale: is required, since student s knows de-DE, es-ES")
    assert client.post("/model/parse?model=german", json={"text": TEXT}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "reason", "message"),
    [
        ("/model/parse", {}, 422, "InvalidRequest", "text: is required"),
        ("/model/parse", {"text": " "}, 422, "InvalidRequest", "text: must hold"),
        ("/model/parse?model=none", {"text": TEXT}, 404, "UnknownModel", "model: no such student"),
        ("/model/parse?locales=de", {"text": TEXT}, 422, "InvalidRequest", "query: each of locale, model"),
        ("/model/parse?locale=a&locale=b", {"text": TEXT}, 422, "InvalidRequest", "query: each of"),
        ("/model/parse?emulation_mode=luis", {"text": TEXT}, 422, "InvalidRequest", "emulation_mode: is not"),
        ("/model/parse?locale=%FF", {"text": TEXT}, 422, "InvalidRequest", "query: is not UTF-8"),
        ("/version", {"text": TEXT}, 405, "WrongMethod", "this path takes GET"),
    ],
)
def test_errors_have_rasas_shape(server: Server, path: str, body: Any, status: int, reason: str, message: str) -> None:
    response = httpx.post(url_of(server) + path, json=body, trust_env=False)

    error = RasaError.model_validate_json(response.content)
    assert (response.status_code, error.code, error.reason) == (status, status, reason)
    assert error.message.startswith(message)


def test_status_and_version(server: Server) -> None:
    status, version = (httpx.get(url_of(server) + path, trust_env=False).json() for path in ("/status", "/version"))

    assert (status["model_file"], status["num_active_training_jobs"]) == ("s", 0)
    assert len(status["model_id"]) == 12
    assert version["version"].startswith("3.")


def test_overload_is_429_in_rasas_shape(make_client: Any) -> None:
    client = make_client(permits=1, max_batch=1, default_locale="de-DE")

    with client.app.state.registry.models["s"].queue.admit(1):
        refused = client.post("/model/parse", json={"text": TEXT})

    assert (refused.status_code, refused.json()["reason"]) == (429, "Overloaded")
    assert refused.headers["retry-after"].isdigit()


def test_requests_are_counted_as_those_of_the_own_api(make_client: Any) -> None:
    client = make_client(default_locale="de-DE")

    client.post("/model/parse", json={"text": TEXT})
    client.post("/model/parse", json={"text": ""})

    counted = {"endpoint": "/model/parse", "code": "200", "model": "s"}
    assert client.metric("nlu_requests_total", **counted) == 1
    assert client.metric("nlu_requests_total", endpoint="/model/parse", code="422") == 1
    assert client.metric("nlu_rejected_total", reason="invalid") == 1
    assert client.metric("nlu_predictions_total", model="s") == 1


def test_keys_are_required_and_may_stand_in_the_query(make_client: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    client = make_client(default_locale="de-DE", api_keys_file=tmp_path / "keys")

    def status(query: str = "", **headers: str) -> int:
        reply = client.post(f"/model/parse{query}", json={"text": TEXT}, headers=headers)
        return int(reply.status_code)

    assert (status(), status("?token=wrong"), status("?token=%FF%C3")) == (401, 401, 401)
    assert (status(f"?token={KEY}"), status(**{"x-api-key": KEY})) == (200, 200)
    assert (client.get("/status").status_code, client.get(f"/status?token={KEY}").status_code) == (401, 200)
    assert client.get("/version").status_code == 200
    assert client.post(f"/v1/nlu?token={KEY}", json={"text": TEXT, "locale": "de-DE"}).status_code == 401


def test_an_experiment_splits_these_requests_too(make_client: Any, students: Path, tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('[arms.control]\nmodel = "german"\nweight = 1\n')
    client = make_client(experiment_file=file, default_locale="de-DE")

    client.post("/model/parse", json={"text": TEXT})

    assert client.metric("nlu_turns_total", arm="control", model="german") == 1


def test_a_student_without_intents_names_none(make_client: Any, tmp_path: Path) -> None:
    write_student(tmp_path / "slots", name="slots", heads=("slots",), locales=("de-DE",))
    client = make_client(tmp_path)

    reply = client.post("/model/parse", json={"text": TEXT}).json()

    assert (reply["intent"], reply["intent_ranking"]) == ({"name": None, "confidence": 0.0}, [])
    assert len(reply["entities"]) == 2
