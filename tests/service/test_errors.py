"""The error table and the shape of errors."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import TABLE, BatchTooLarge, ServiceError


def test_table_covers_each_error_class() -> None:
    classes = {error.__name__: error for error in ServiceError.__subclasses__()}

    assert classes.keys() == TABLE.keys()
    assert all(error.row is TABLE[name] for name, error in classes.items())


def test_codes_and_labels_are_distinct() -> None:
    assert len({row.code for row in TABLE.values()}) == len(TABLE)
    assert len({row.label for row in TABLE.values()}) == len(TABLE)


def test_error_without_a_row_cannot_be_defined() -> None:
    with pytest.raises(KeyError, match="Unlisted"):
        type("Unlisted", (ServiceError,), {})


def test_details_fill_the_message() -> None:
    assert BatchTooLarge(count=9, limit=4).message == "items: 9 given, at most 4 allowed"


def test_headers_go_with_the_reply(client: Any) -> None:
    assert client.get("/v1/nlu").headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/nlu/", 404, "not_found"),
        ("GET", "/v1/nlu", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/docs", 405, "method_not_allowed"),
        ("POST", "/v1/nlu", 415, "unsupported_media_type"),
    ],
)
def test_every_error_has_one_shape(client: Any, method: str, path: str, status: int, code: str) -> None:
    response = client.send(method, path)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"].keys() == {"code", "message", "request_id"}
    assert response.json()["error"]["code"] == code
