"""Reading and parsing bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

GOOD = b'{"text":"wetter","locale":"de-DE"}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: invalid JSON"),
        (b"nope", "body: invalid JSON"),
        (b"\xff\xfe", "body: is not UTF-8"),
        (b"[" * 100_000, "body: invalid JSON"),
        (b"[]", "body: should be a JSON object"),
        (b'{"locale":"de-DE"}', "text: is required"),
        (b'{"text":"hallo"}', "locale: is required"),
        (b'{"text":1,"locale":"de-DE"}', "text: should be a valid string"),
        (b'{"text":" \\n","locale":"de-DE"}', "text: must hold at least one character"),
        (b'{"text":"a\\u0000b","locale":"de-DE"}', "text: must not hold NUL"),
        (rb'{"text":"\ud800","locale":"de-DE"}', "text: must not hold a lone surrogate"),
        (rb'{"text":"x","locale":"\udfff"}', "locale: student s does not know it"),
        (b'{"text":"x","locale":"de-DE","top_k":0}', "top_k: should be greater than or equal to 1"),
        (b'{"text":"x","locale":"de-DE","top_k":21}', "top_k: should be less than or equal to 20"),
        (b'{"text":"x","locale":"de-DE","top_k":"3"}', "top_k: should be a valid integer"),
        (
            b'{"text":"x","locale":"de-DE","lang":1}',
            "lang: no such field; allowed: text, locale, top_k, allowed_domains, allowed_intents, model",
        ),
        (b'{"text":"x","locale":"de-DE","weck mich":1}', "(unnamed): no such field"),
    ],
)
def test_422_names_the_field_and_what_is_allowed(client: Any, body: bytes, message: str) -> None:
    response = client.post("/v1/nlu", content=body)

    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON "],
)
def test_body_is_declared_as_json(client: Any, content_type: str) -> None:
    assert client.post("/v1/nlu", content=GOOD, headers={"content-type": content_type}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/nlu", "/v1/nlu/batch", "/v1/domain", "/v1/compare", "/v1/feedback"])
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/plain; x=application/json",
        "text/plain, application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "",
    ],
)
def test_other_bodies_are_refused_since_any_website_could_send_them(client: Any, path: str, content_type: str) -> None:
    response = client.post(path, content=GOOD, headers={"content-type": content_type})

    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert response.json()["error"]["message"] == "content-type should be application/json"


def test_declared_size_over_the_limit_is_413(make_client: Any) -> None:
    client = make_client(max_body_bytes=1024, max_text_chars=100)

    response = client.post("/v1/nlu", content=b" " * 1025)

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_chunked_body_is_cut_off_at_the_limit(make_client: Any) -> None:
    client = make_client(max_body_bytes=1024, max_text_chars=100)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1_000_000:
            sent += 512
            yield b" " * 512

    response = client.post("/v1/nlu", content=endless())

    assert response.status_code == 413
    assert sent <= 2048


def test_chunked_body_within_the_limit_is_read_whole(client: Any) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        yield GOOD[:9]
        yield GOOD[9:]

    assert client.post("/v1/nlu", content=in_pieces()).status_code == 200
