"""Logits and tags to labels and spans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.student.decoding import Ranked, decode_slots, rank, softmax, spans_of_tags, trim

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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"bohemian rhapsody"', "bohemian rhapsody"),
        ("“Jazz”,", "Jazz"),
        ("‘jazz’", "jazz"),
        ("«jazz»...", "jazz"),
        ("berlin! 😀❤\ufe0f", "berlin"),
        ("\ufeffber\u00adlin\u200b", "ber\u00adlin"),
        (" (berlin)! ", "berlin"),
        ("hallo (live)!", "hallo (live)"),
        ("(500) days of summer", "(500) days of summer"),
        ('best of "queen"', 'best of "queen"'),
        ("5 €", "5 €"),
        ("$5.", "$5"),
        ("50%,", "50%"),
        ("20°", "20°"),
        ("-5", "-5"),
        ("c++", "c++"),
        ("#1?", "#1"),
        ("p!nk!", "p!nk"),
        ("p. m.", "p. m."),
        ("9 p.m.,", "9 p.m."),
        ("dell'", "dell'"),
        ("cafe\u0301", "cafe\u0301"),
        ("सुबह की", "सुबह की"),
        ("5\ufe0f\u20e3", "5"),
    ],
)
def test_marks_and_emoji_at_the_edges_are_no_part_of_a_value(text: str, value: str) -> None:
    start, end = trim(text, 0, len(text))

    assert text[start:end] == value


def test_an_apostrophe_closes_what_one_outside_the_span_has_opened() -> None:
    assert trim("'jazz' bitte", 1, 6) == (1, 5)


@pytest.mark.parametrize("text", ['"', "\ufe0f", "…", "😀 ❤\ufe0f", "€", "'"])
def test_a_slot_has_a_letter_or_a_digit(text: str) -> None:
    logits = np.array([[0, 5, 0, 0, 0], [0, 0, 0, 5, 0]], np.float32)

    spans = decode_slots(f"{text} uhr", [(0, len(text)), (len(text) + 1, len(text) + 4)], logits, TAGS)

    assert [(span.name, span.value) for span in spans] == [("b", "uhr")]


MARKS = st.text(
    st.sampled_from("a9é \"'’“”„«»()…..,!?¿-+#@$€°%\u00a0\u200b\u00ad\ufe0f\u0301😀½म\u093e") | st.characters()
)


@given(text=MARKS, data=st.data())
def test_what_is_left_of_a_span_begins_and_ends_visibly(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))

    left, right = trim(text, start, end)

    value = text[left:right]
    assert start <= left <= right <= end
    assert any(map(str.isalnum, value)) == any(map(str.isalnum, text[start:end]))
    assert value == value.strip()
    assert not value or not {value[0], value[-1]} & set("!?,…;:😀\ufe0f\u200b")
    assert all(c.isalnum() is False for c in text[start:left] + text[right:end])
