"""The choice of golden sentences."""

from __future__ import annotations

import pytest

from export.golden import SATURATING_TOLERANCE, choose_golden, tolerance_of
from service.student.manifest import GOLDEN_TOLERANCE
from service.student.student import Student
from tests.service.conftest import write_student
from training.data.utterances import Utterance

SURE = ["weck wecker sveglia réveille", "wetter regnet tempo météo tiempo"]
TIES = ["weck wetter", "hallo", "spiel musik weck wecker"]  # two domains have the same logit
HARD = ["weck wecker wetter", "spiel musik wetter", "wetter regnet weck"]  # one word ahead
OTHERS = ["weck", "spiel musik", "wetter in berlin am freitag um neun uhr", "spiel musik musica"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student.load(write_student(tmp_path_factory.mktemp("students") / "s"))


def chosen(student: Student, texts: list[str], locale: str = "de-DE", tolerance: float = 0.15) -> list[str]:
    utterances = [Utterance(str(number), text, locale) for number, text in enumerate(texts)]
    return [golden.text for golden in choose_golden(student, utterances, tolerance)]


def test_sure_and_hard_sentences_the_shortest_and_the_longest_are_chosen(student: Student) -> None:
    found = chosen(student, [*OTHERS, *TIES, *HARD, *SURE])

    assert set(found[:2]) == set(SURE)
    assert {student.predict(text).intent[0].name for text in found[2:5]} == set(student.labels.intent)  # type: ignore[index]
    assert "weck" in found
    assert "wetter in berlin am freitag um neun uhr" in found
    assert len(found) == len({*found}) == 7


def test_sentences_whose_labels_could_change_within_the_tolerance_are_left_out(student: Student) -> None:
    assert not {*chosen(student, [*TIES, *HARD, *OTHERS])} & {*TIES}
    assert {*chosen(student, [*TIES, *HARD])} == {*HARD}


def test_the_closest_one_is_chosen_where_none_is_stable(student: Student) -> None:
    assert chosen(student, ["hallo", "weck wetter", "weck"], tolerance=10) == ["weck"]


def test_no_sentence_is_chosen_twice_in_a_locale(student: Student) -> None:
    utterances = [Utterance("1", "weck", locale) for locale in ("de-DE", "it-IT", "de-DE")]

    found = choose_golden(student, utterances, 0.15)

    assert [(golden.locale, golden.text) for golden in found] == [("de-DE", "weck"), ("it-IT", "weck")]


@pytest.mark.parametrize(
    ("precision", "any_cpu", "tolerance"),
    [
        ("fp32", False, GOLDEN_TOLERANCE),
        ("int8", True, GOLDEN_TOLERANCE),
        ("int8", False, SATURATING_TOLERANCE),
    ],
)
def test_only_8_bit_weights_have_a_wider_tolerance(precision: str, any_cpu: bool, tolerance: float) -> None:
    assert tolerance_of(precision, any_cpu) == tolerance
