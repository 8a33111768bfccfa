"""OpenAPI: what it says is what the service does."""

from __future__ import annotations

from typing import Any

import pytest

from service.http.requests import REQUEST_EXAMPLE
from service.http.schemas import ERROR_EXAMPLE, REPLY_EXAMPLE, ErrorReply, NluReply


@pytest.fixture
def openapi(client: Any) -> Any:
    return client.get("/openapi.json").json()


@pytest.mark.parametrize(("path", "model"), [("/v1/nlu", "Nlu"), ("/v1/nlu/batch", "Batch"), ("/v1/domain", "Domain")])
def test_routes_are_documented(openapi: Any, path: str, model: str) -> None:
    operation = openapi["paths"][path]["post"]

    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{model}Request")
    answers = {status: _schema(answer) for status, answer in operation["responses"].items()}
    assert answers.pop("200").endswith(f"/{model}Reply")
    assert answers.keys() >= {"404", "413", "422", "500", "503"}
    assert all(schema.endswith("/ErrorReply") for schema in answers.values())


@pytest.mark.parametrize("path", ["/v1/models", "/livez", "/readyz", "/v2/health/ready", "/metrics"])
def test_every_other_route_is_documented(openapi: Any, path: str) -> None:
    assert "get" in openapi["paths"][path]


def test_only_what_clients_see_is_documented(openapi: Any) -> None:
    schemas = openapi["components"]["schemas"]

    assert schemas["BatchRequest"]["properties"]["items"]["items"] == {"$ref": "#/components/schemas/NluItem"}
    assert not {"InvalidRequest", "HTTPValidationError"} & schemas.keys()


def test_example_requests_are_answered(client: Any, openapi: Any) -> None:
    routes = {"nlu": "Nlu", "nlu/batch": "Batch", "domain": "Domain", "feedback": "Feedback"}
    for path, model in routes.items():
        example = openapi["components"]["schemas"][f"{model}Request"]["examples"][0]

        assert client.post(f"/v1/{path}", json=example).status_code == 200


def test_example_replies_fit() -> None:
    reply = NluReply.model_validate(REPLY_EXAMPLE)
    ErrorReply.model_validate(ERROR_EXAMPLE)

    text = str(REQUEST_EXAMPLE["text"])
    assert all(text[slot.start : slot.end] == slot.value for slot in reply.slots or ())


def _schema(answer: Any) -> str:
    return str(answer["content"]["application/json"]["schema"]["$ref"])
