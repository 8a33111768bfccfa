"""Logits and tags to labels and spans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.student.decoding import Ranked, decode_slots, rank, softmax, spans_of_tags

TAGS = ("O", "B-a", "I-a", "B-b", "I-b")
# Gaps of "O" words before each span, its name and its length.
LAYOUTS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(1, 3)), max_size=6)


@given(layout=LAYOUTS)
def test_spans_survive_conversion_to_bio_and_back(layout: list[tuple[int, str, int]]) -> None:
    tags: list[str] = []
    spans = []
    for gap, name, length in layout:
        tags += ["O"] * gap
        spans.append((name, len(tags), len(tags) + length))
        tags += [f"B-{name}"] + [f"I-{name}"] * (length - 1)

    assert spans_of_tags(tags) == spans


@given(tags=st.lists(st.sampled_from(TAGS)))
def test_spans_are_ordered_and_cover_all_words_outside_o(tags: list[str]) -> None:
    spans = spans_of_tags(tags)

    covered = [word for _, first, after in spans for word in range(first, after)]
    assert covered == [word for word, tag in enumerate(tags) if tag != "O"]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["I-a", "I-a"], [("a", 0, 2)]),
        (["B-a", "I-b"], [("a", 0, 1), ("b", 1, 2)]),
        (["B-a", "B-a"], [("a", 0, 1), ("a", 1, 2)]),
        ([], []),
    ],
)
def test_irregular_tags_are_decoded_as_in_conlleval(tags: list[str], spans: list[tuple[str, int, int]]) -> None:
    assert spans_of_tags(tags) == spans


def test_softmax_of_large_logits_is_finite() -> None:
    assert softmax(np.array([1e4, 0.0], np.float32)).tolist() == [1.0, 0.0]


def test_rank_orders_and_cuts() -> None:
    ranked = rank(np.log(np.array([0.25, 0.5, 0.25], np.float32)), ("a", "b", "c"), 1.0, 2)

    assert ranked == [Ranked("b", 0.5), Ranked("a", 0.25)]


def test_slot_confidence_is_the_minimum_over_its_words() -> None:
    logits = np.array([[0, 5, 0, 0, 0], [0, 0, 1, 0, 0]], np.float32)

    (span,) = decode_slots("am freitag", [(0, 2), (3, 10)], logits, TAGS)

    assert span.value == "am freitag"
    assert span.confidence == pytest.approx(float(softmax(logits[1]).max()))


def test_words_of_one_raw_character_give_one_span() -> None:
    logits = np.array([[0, 5, 0, 0, 0], [0, 0, 0, 5, 0]], np.float32)

    spans = decode_slots("½", [(0, 1), (0, 1)], logits, TAGS)

    assert [(span.name, span.value) for span in spans] == [("a", "½")]


def test_span_after_a_shared_character_begins_at_a_word() -> None:
    logits = np.array([[0, 5, 0, 0, 0], [0, 0, 0, 5, 0], [0, 0, 0, 0, 5]], np.float32)

    spans = decode_slots("½ uhr", [(0, 1), (0, 1), (2, 5)], logits, TAGS)

    assert [(span.name, span.value) for span in spans] == [("a", "½"), ("b", "uhr")]
