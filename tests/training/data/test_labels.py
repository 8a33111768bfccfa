from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.student.decoding import spans_of_tags
from training.data.annotation import parse
from training.data.labels import labels_of, tags_of
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import reference_words

A = Utterance("1", "wecker um neun", "de-DE", "train", "alarm", "alarm_set", (Slot("time", 10, 14),))
B = Utterance("2", "spiel jazz", "de-DE", "train", "play", "play_music", (Slot("music_genre", 6, 10),))


def test_labels_are_sorted_and_slots_become_bio_tags() -> None:
    labels = labels_of([B, A])

    assert labels.domain == ("alarm", "play")
    assert labels.intent == ("alarm_set", "play_music")
    assert labels.slots == ("O", "B-music_genre", "I-music_genre", "B-time", "I-time")


def test_only_the_chosen_heads_get_labels() -> None:
    assert labels_of([A, B], ["domain"]).heads == ("domain",)


def test_without_slots_there_is_no_head_for_them() -> None:
    plain = [Utterance("1", "ja", "de-DE", intent="yes"), Utterance("2", "nein", "de-DE", intent="no")]

    assert labels_of(plain).heads == ("intent",)
    assert labels_of(plain, ["slots"]).slots == ("O",)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", ""])), min_size=1, max_size=8))
def test_tags_and_spans_are_inverse(words: list[tuple[str, str]]) -> None:
    annotated = " ".join(f"[{slot} : {word}]" if slot else word for word, slot in words)
    text, slots = parse(annotated)
    extents = reference_words(text, "de-DE")

    spans = spans_of_tags(tags_of(extents, slots))

    assert [(name, extents[first][0], extents[after - 1][1]) for name, first, after in spans] == [
        (s.name, s.start, s.end) for s in slots
    ]


def test_a_slot_inside_a_word_tags_the_word() -> None:
    assert tags_of([(0, 7), (8, 9)], [Slot("song", 2, 7)]) == ["B-song", "O"]
