"""The answer cache: the same answers, no text stored, bounded size."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.models.cache import AnswerCache
from service.student.student import Question, Student

BODY = {"text": "Weck mich am Freitag um neun Uhr", "locale": "de-DE"}


def test_second_answer_is_cached(make_client: Any) -> None:
    client = make_client(cache_entries=10)

    first, second = (client.post("/v1/nlu", json={**BODY, "top_k": 2}).json() for _ in range(2))

    assert (first["cached"], second["cached"]) == (False, True)
    for key in ("domain", "intent", "slots", "ranking", "truncated", "locale", "model"):
        assert first[key] == second[key]
    assert second["timings_ms"]["inference"] == 0
    assert client.metric("nlu_cache_total", model="s", outcome="hit") == 1
    assert client.metric("nlu_cache_total", model="s", outcome="miss") == 1
    assert client.metric("nlu_phase_seconds_count", model="s", phase="inference") == 1
    assert client.metric("nlu_predictions_total", model="s") == 2


def test_cache_is_off_by_default(make_client: Any) -> None:
    client = make_client()

    assert [client.post("/v1/nlu", json=BODY).json()["cached"] for _ in range(2)] == [False, False]


@pytest.mark.parametrize(
    "other", [{"locale": "fr-FR"}, {"model": "german"}, {"top_k": 2}, {"text": BODY["text"] + "!"}]
)
def test_what_an_answer_depends_on_is_part_of_its_key(make_client: Any, other: dict[str, Any]) -> None:
    client = make_client(cache_entries=10)
    client.post("/v1/nlu", json=BODY)

    assert client.post("/v1/nlu", json={**BODY, **other}).json()["cached"] is False


def test_batch_is_cached_too(make_client: Any) -> None:
    client = make_client(cache_entries=10)

    results = client.post("/v1/nlu/batch", json={"items": [BODY, BODY]}).json()["results"]

    assert [result["cached"] for result in results] == [False, True]


def test_the_least_recently_used_is_dropped_first(student: Student) -> None:
    cache = AnswerCache(2)
    keys = [cache.key(Question(text, "de-DE")) for text in ("a", "b", "c")]
    answer = student.predict("wetter")

    cache.put(keys[0], answer)
    cache.put(keys[1], answer)
    cache.get(keys[0], "a")
    cache.put(keys[2], answer)

    assert [cache.get(key, "") is not None for key in keys] == [True, False, True]
    assert len(cache) == 2


@given(text=st.lists(st.sampled_from(["Freitag", "🙂", "größe", "l'", " ", "9", "uhr", "berlin"])).map("".join))
def test_cached_answer_equals_the_first(student: Student, text: str) -> None:
    cache = AnswerCache(1)
    answer = student.predict(text)
    key = cache.key(Question(text, "de-DE"))

    cache.put(key, answer)

    assert cache.get(key, text) == answer


def test_no_text_is_stored(student: Student) -> None:
    cache = AnswerCache(5)
    text = "wetter in berlin und " + "zebra" * 3
    cache.put(cache.key(Question(text, "de-DE")), student.predict(text))

    kept = _reachable(cache)

    assert any(isinstance(found, bytes) and len(found) == 16 for found in kept)
    assert not [found for found in kept if isinstance(found, str) and ("zebra" in found or found == "berlin")]


def _reachable(root: object) -> list[object]:
    found: dict[int, object] = {}
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) not in found and not isinstance(thing, type):
            found[id(thing)] = thing
            todo += gc.get_referents(thing)
    return list(found.values())
