"""The V2 Open Inference Protocol, spoken by Triton's client."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from service.protocols.inference import OUTPUTS
from service.protocols.inference_schemas import HEADER_LENGTH, InferReply
from tests.service.conftest import write_student
from tests.service.server import Server

TEXTS = ("weck mich am freitag um neun uhr auf", "regnet es morgen in größe 😀")
KEY = "a-key-of-many-characters"
INFER = "/v2/models/s/infer"


@pytest.fixture(scope="module")
def server(students: Path) -> Iterator[Server]:
    with Server("--students", str(students)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


@pytest.fixture
def own(students: Path, make_client: Any) -> Any:
    """An application in this process."""
    return make_client(students)


def tensor(name: str, texts: Sequence[str], *, binary: bool = True, column: bool = False) -> Any:
    made = triton.InferInput(name, [len(texts), 1] if column else [len(texts)], "BYTES")
    values = np.array(texts, object)
    made.set_data_from_numpy(values.reshape(-1, 1) if column else values, binary_data=binary)
    return made


def given_json(*texts: str, locale: str | None = "de-DE", **more: Any) -> dict[str, Any]:
    inputs = [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}]
    if locale is not None:
        inputs.append({"name": "locale", "shape": [1], "datatype": "BYTES", "data": [locale]})
    return {"inputs": inputs, **more}


def test_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("s")
    assert client.is_model_ready("default")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("s")
    assert described["name"] == "s"
    assert [(one["name"], one["datatype"]) for one in described["inputs"]] == [("text", "BYTES"), ("locale", "BYTES")]
    assert [one["name"] for one in described["outputs"]] == list(OUTPUTS)


def test_unknown_model(client: Any) -> None:
    assert not client.is_model_ready("zz")
    with pytest.raises(InferenceServerException, match="no such student is loaded; loaded: german, s or default"):
        client.get_model_metadata("zz")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS])
def test_infer_answers_as_the_own_api(
    server: Server, client: Any, binary: bool, column: bool, texts: Sequence[str]
) -> None:
    inputs = [tensor("text", texts, binary=binary, column=column), tensor("locale", ["de-DE"], binary=binary)]
    asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]

    result = client.infer("s", inputs, outputs=asked, request_id="r1")

    reply = InferReply.model_validate(result.get_response())
    assert (reply.id, reply.model_name, len(reply.model_version)) == ("r1", "s", 12)
    assert all(output.shape == ([len(texts), 1] if column else [len(texts)]) for output in reply.outputs)
    for number, text in enumerate(texts):
        answer = json.loads(server.ask("POST", "/v1/nlu", {"text": text, "locale": "de-DE"}).content)
        found = {
            name: result_of(result, output, number, binary) for name, output in zip(OUTPUTS, reply.outputs, strict=True)
        }
        assert found["domain"] == answer["domain"]["name"]
        assert found["intent"] == answer["intent"]["name"]
        assert found["intent_confidence"] == pytest.approx(answer["intent"]["confidence"], abs=1e-6)
        assert found["domain_confidence"] == pytest.approx(answer["domain"]["confidence"], abs=1e-6)
        assert json.loads(found["slots"]) == answer["slots"]
        assert json.loads(found["in_scope"]) is answer["in_scope"]


def result_of(result: Any, output: Any, number: int, binary: bool) -> Any:
    """An element of an output. tritonclient reads FP32 only from binary data."""
    value = result.as_numpy(output.name).ravel()[number] if binary else output.data[number]
    return value.decode() if isinstance(value, bytes) else value


def test_without_outputs_all_are_sent(client: Any) -> None:
    result = client.infer("german", [tensor("text", TEXTS)])  # knows one locale, so none is needed

    assert [output["name"] for output in result.get_response()["outputs"]] == list(OUTPUTS)
    assert list(result.as_numpy("domain")) == [b"alarm", b"weather"]


def test_each_text_may_have_its_locale(client: Any) -> None:
    result = client.infer("s", [tensor("text", ["wetter", "musica"]), tensor("locale", ["de-DE", "it-IT"])])

    assert list(result.as_numpy("domain")) == [b"weather", b"music"]


def test_error_names_the_problem(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="locale: student s does not know it; known: de-DE") as caught:
        client.infer("s", [tensor("text", TEXTS), tensor("locale", ["de-DE", "xx-XX"])])
    assert caught.value.status() == "422"

    with pytest.raises(InferenceServerException, match="inputs, element 1: text: must hold at least one"):
        client.infer("s", [tensor("text", ["wetter", " "]), tensor("locale", ["de-DE"])])


def test_timeout_of_the_client_is_a_deadline(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own.post(INFER, json=given_json("wetter", parameters={"timeout": 3_600_000_000})).status_code == 200

    passed = own.post(INFER, json=given_json("wetter", parameters={"timeout": 1}))

    assert (passed.status_code, passed.json()) == (504, {"error": "the deadline passed before inference started"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, "inputs: "),
        ({"inputs": [{"name": "words", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}, "inputs.0.name: "),
        ({"inputs": [{"name": "text", "shape": [1], "datatype": "FP32", "data": ["a"]}]}, "inputs.0.datatype: "),
        ({"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}, "inputs.text: 1 elements"),
        ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}, "inputs.text: should have either data"),
        ({"inputs": [{"name": "text", "shape": [0], "datatype": "BYTES", "data": []}]}, "inputs.text: should have the"),
        ({"inputs": [{"name": "text", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}]}, "inputs.text: shou"),
        ({"inputs": given_json("a")["inputs"][1:]}, "inputs: should be text and"),
        ({"inputs": given_json("a")["inputs"][:1] * 2}, "inputs: should be text and"),
        ({"inputs": given_json("a")["inputs"][:1]}, "locale: is required, since student s knows"),
        ({"outputs": [{"name": "answer"}]}, "outputs.0.name: "),
        ({"outputs": [{"name": "slots"}, {"name": "slots"}]}, "outputs: should have no name twice"),
        ({"parameters": {"sequence_id": 1}}, "parameters.sequence_id: no such field"),
    ],
)
def test_bad_requests(own: Any, change: dict[str, Any], message: str) -> None:
    refused = own.post(INFER, json=given_json("wetter") | change)

    assert refused.status_code == 422
    assert list(refused.json()) == ["error"]
    assert message in refused.json()["error"]


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ("9999", b"{}", "should be the bytes of the JSON"),
        ("-1", b"{}", "should be the bytes of the JSON"),
        ("json", b"\x05\0\0\0wett", "ends within an element"),
        ("json", b"\x05\0\0", "ends within an element"),
        ("json", b"\x01\0\0\0\xff", "is not UTF-8"),
        ("json", b"\x01\0\0\0ab", "ends within an element"),
        ("more", b"\x01\0\0\0a", "has binary data of no input"),
        ("less", b"\x01\0\0\0a", "is more than the body holds"),
    ],
)
def test_bad_binary_data(own: Any, header: str, body: bytes, message: str) -> None:
    size = {"more": 0, "less": len(body) + 2}.get(header, len(body))
    inputs = [
        {
            "name": "text",
            "shape": [min(size, 1)],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": size},
        },
        *given_json("x")["inputs"][1:],
    ]
    first = json.dumps({"inputs": inputs}).encode()
    length = str(len(first)) if header in ("json", "more", "less") else header

    refused = own.post(INFER, content=first + body, headers={HEADER_LENGTH.decode(): length})

    assert refused.status_code == 422
    assert message in refused.json()["error"]


@settings(max_examples=150)
@given(content=st.binary(max_size=80), length=st.none() | st.integers(0, 90))
def test_no_bytes_make_a_500(server: Server, content: bytes, length: int | None) -> None:
    headers = {} if length is None else {HEADER_LENGTH.decode(): str(length)}

    assert server.ask("POST", INFER, content, headers).status == 422


def test_batch_size_is_bounded_and_counted(make_client: Any) -> None:
    client = make_client(max_batch=2)

    too_many = client.post(INFER, json=given_json("a", "b", "c"))
    answered = client.post(INFER, json=given_json("wetter", "musik"))

    assert (too_many.status_code, too_many.json()) == (413, {"error": "items: 3 given, at most 2 allowed"})
    assert answered.status_code == 200
    endpoint = "/v2/models/{model}/infer"
    assert client.metric("nlu_requests_total", endpoint=endpoint, code="200", model="s") == 1
    assert client.metric("nlu_predictions_total", model="s") == 2
    assert client.metric("nlu_batch_size_sum", model="s") == 2


def test_overload_is_429(make_client: Any) -> None:
    client = make_client(permits=1, max_batch=1)

    with client.app.state.registry.models["s"].queue.admit(1):
        refused = client.post(INFER, json=given_json("wetter"))

    assert refused.status_code == 429
    assert refused.headers["retry-after"].isdigit()
    assert refused.json()["error"].startswith("overloaded: ")


def test_keys_are_required(make_client: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    client = make_client(api_keys_file=tmp_path / "keys")

    refused = client.post(INFER, json=given_json("wetter"))
    answered = client.post(INFER, json=given_json("wetter"), headers={"authorization": f"Bearer {KEY}"})

    assert (refused.status_code, answered.status_code) == (401, 200)
    assert refused.json() == {"error": "send a key as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"}
    assert [client.get(f"/v2{path}").status_code for path in ("", "/models/s", "/health/live")] == [200, 401, 200]


def test_a_web_page_must_declare_a_type_that_needs_consent(server: Server) -> None:
    def status(**headers: str) -> int:
        content = json.dumps(given_json("wetter")).encode()
        url = f"http://127.0.0.1:{server.port}{INFER}"
        return httpx.post(url, content=content, headers=headers, trust_env=False).status_code

    assert status() == 200  # tritonclient declares none
    assert status(origin="http://evil.example") == 415
    assert status(**{"origin": "http://evil.example", "content-type": "text/plain"}) == 415
    assert status(**{"origin": "http://good.example", "content-type": "application/json"}) == 200


def test_a_student_offers_the_outputs_of_its_heads(make_client: Any, tmp_path: Path) -> None:
    write_student(tmp_path / "dc", name="dc", heads=("domain",), locales=("de-DE",))
    client = make_client(tmp_path)

    described = client.get("/v2/models/dc").json()
    refused = client.post("/v2/models/dc/infer", json=given_json("wetter", outputs=[{"name": "slots"}]))

    assert [output["name"] for output in described["outputs"]] == ["domain", "domain_confidence", "in_scope"]
    assert refused.status_code == 422
    assert refused.json()["error"] == "outputs.slots: student dc has no slots head; it has domain"


@pytest.mark.parametrize("path", ["/v2/models", "/v2/models/", "/v2/models//infer", "/v2/models/s/", "/v2/models/s/x"])
def test_unknown_paths(own: Any, path: str) -> None:
    assert own.get(path).status_code == 404
    assert own.metric("nlu_requests_total", endpoint="other", code="404") == 1
