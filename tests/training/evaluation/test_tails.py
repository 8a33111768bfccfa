from __future__ import annotations

from training.data.annotation import parse
from training.data.utterances import Utterance
from training.evaluation.tails import tail_of


def utterance(id_: str, annotated: str, locale: str = "de-DE") -> Utterance:
    text, slots = parse(annotated)
    return Utterance(id_, text, locale, "test", "d", "i", slots)


def test_tail_test_holds_what_occurs_three_times_or_less() -> None:
    evaluated = [utterance(str(i), "stopp") for i in range(4)] + [utterance("9", "weiter")]

    assert [u.id for u in tail_of("tail_test", evaluated, [])] == ["9"]


def test_unseen_values_count_per_slot_and_locale() -> None:
    train = [utterance("1", "am [date : freitag]"), utterance("2", "am [date : montag]", "fr-FR")]
    evaluated = [
        utterance("3", "nur [date : freitag]"),
        utterance("4", "am [date : montag]"),
        utterance("5", "spiel [song : freitag]"),
        utterance("6", "unbekannte wörter"),
    ]

    assert [u.id for u in tail_of("tail_unseen_value", evaluated, train)] == ["4", "5"]


def test_unseen_words() -> None:
    train = [utterance("1", "weck mich")]

    assert [
        u.id for u in tail_of("tail_unseen_word", [utterance("2", "weck mich"), utterance("3", "weck ihn")], train)
    ] == ["3"]
