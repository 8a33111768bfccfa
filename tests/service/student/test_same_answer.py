"""The answer of the shipped int8 student to a text does not depend on concurrent requests or neighbours in a batch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from loadtest.load.texts import load_texts
from service.app import create_app
from service.settings import Settings
from service.student.shipped import SHIPPED_STUDENTS
from tests.service.conftest import Client

LONG = " ".join(["wecker", "und", "musik", "morgen", "um", "neun"] * 84)  # 504 words
FIELDS = ("domain", "intent", "slots", "ranking", "truncated")


@pytest.fixture(scope="module")
def shipped() -> Iterator[Client]:
    with Client(create_app(Settings(students=SHIPPED_STUDENTS, permits=4096, max_batch=64))) as client:
        yield client


@pytest.fixture(scope="module")
def bodies(shipped: Client) -> list[dict[str, Any]]:
    """Texts in every locale of the student, shuffled."""
    known = shipped.get("/v1/models").json()["models"][0]["locales"]
    texts = [text for text in load_texts() if text.locale in known]
    random.Random(3).shuffle(texts)
    return [{"text": text.text, "locale": text.locale, "top_k": 5} for text in texts[:64]]


@pytest.fixture(scope="module")
def alone(shipped: Client, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [shipped.post("/v1/nlu", json=body).json() for body in bodies]


def check(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The answers are identical, scores included: the graph runs each text by itself."""
    for one, other in zip(found, expected, strict=True):
        assert {key: one[key] for key in FIELDS} == {key: other[key] for key in FIELDS}


def test_same_answer_in_a_batch_of_64(shipped: Client, bodies: Any, alone: Any) -> None:
    check(shipped.post("/v1/nlu/batch", json={"items": bodies}).json()["results"], alone)


def test_same_answer_beside_a_text_of_500_words(shipped: Client, bodies: Any, alone: Any) -> None:
    neighbour = {"text": LONG, "locale": "de-DE"}
    items = [item for body in bodies[:31] for item in (neighbour, body)]

    results = shipped.post("/v1/nlu/batch", json={"items": items}).json()["results"]

    check(results[1::2], alone[:31])
    assert all(result["truncated"] for result in results[::2])


def test_same_answer_among_a_thousand_concurrent_requests(shipped: Client, bodies: Any, alone: Any) -> None:
    order = [number for _ in range(16) for number in range(len(bodies))]
    random.Random(5).shuffle(order)

    with ThreadPoolExecutor(64) as threads:
        replies = list(threads.map(lambda number: shipped.post("/v1/nlu", json=bodies[number]).json(), order))

    assert len(order) > 1000
    check(replies, [alone[number] for number in order])


def test_same_answer_in_sixteen_threads(shipped: Client, bodies: Any) -> None:
    student = shipped.app.state.registry.by_name["default"].student
    texts = [body["text"] for body in bodies] * 4
    one_by_one = [student.predict(text, 5)[:-1] for text in texts]

    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda text: student.predict(text, 5)[:-1], texts))

    assert together == one_by_one
