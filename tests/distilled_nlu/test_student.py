"""Students asked from Python: ``from distilled_nlu import Student``."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import distilled_nlu
from distilled_nlu import Label, Result, Slot, Student, StudentError, shipped_students

PUBLIC = ["Label", "Result", "Slot", "Student", "StudentError", "shipped_students"]
WAKE = "weck mich am freitag um neun uhr auf"


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.load("xs")


def test_the_public_names_are_these() -> None:
    assert distilled_nlu.__all__ == PUBLIC
    assert all(hasattr(distilled_nlu, name) for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(distilled_nlu))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Teacher'"):
        distilled_nlu.Teacher  # noqa: B018


@pytest.mark.parametrize("name", shipped_students())
def test_each_shipped_student_answers_the_readme_s_sentence(name: str) -> None:
    result = Student.load(name)(WAKE, locale="de-DE")

    assert isinstance(result, Result)
    assert result.domain == Label("alarm", pytest.approx(result.domain.confidence)) if result.domain else False
    assert result.intent is not None
    assert result.intent.name == "alarm_set"
    assert result.slots is not None
    assert [(slot.name, slot.value, WAKE[slot.start : slot.end]) for slot in result.slots] == [
        ("date", "freitag", "freitag"),
        ("time", "neun uhr", "neun uhr"),
    ]
    assert result.in_scope is True
    assert not result.truncated


def test_results_cannot_be_changed(student: Student) -> None:
    result = student(WAKE, locale="de-DE")

    with pytest.raises(FrozenInstanceError):
        result.text = ""  # type: ignore[misc]


def test_top_k_ranks_that_many(student: Student) -> None:
    result = student(WAKE, locale="de-DE", top_k=3)

    confidences = [label.confidence for label in result.intents]
    assert len(confidences) == len(result.domains) == 3
    assert confidences == sorted(confidences, reverse=True)
    assert result.intent == result.intents[0]


def test_without_a_locale_scope_is_unknown(student: Student) -> None:
    assert student(WAKE).in_scope is None


@given(st.lists(st.text(min_size=1, max_size=40), max_size=4))
def test_a_batch_answers_as_one_text_at_a_time(student: Student, texts: list[str]) -> None:
    assert student.batch(texts, locale="fr-FR") == [student(text, locale="fr-FR") for text in texts]


@given(st.text(max_size=60))
def test_offsets_are_those_of_the_text_as_given(student: Student, text: str) -> None:
    for slot in student(text, locale="it-IT").slots or ():
        assert isinstance(slot, Slot)
        assert text[slot.start : slot.end] == slot.value


def test_each_text_may_have_a_locale_of_its_own(student: Student) -> None:
    german, french = student.batch([WAKE, "réveille moi à neuf heures"], locale=["de-DE", "fr-FR"])

    assert (german.locale, french.locale) == ("de-DE", "fr-FR")
    assert german == student(WAKE, locale="de-DE")


def test_an_unknown_locale_names_those_that_are_known(student: Student) -> None:
    with pytest.raises(ValueError, match=r"locale 'de_DE' is unknown to student xs; known: .*de-DE"):
        student(WAKE, locale="de_DE")


def test_too_few_locales_are_refused(student: Student) -> None:
    with pytest.raises(ValueError, match="1 locales for 2 texts"):
        student.batch(["a", "b"], locale=["de-DE"])


def test_top_k_below_one_is_refused(student: Student) -> None:
    with pytest.raises(ValueError, match="top_k is 0; allowed: 1 or more"):
        student(WAKE, top_k=0)


def test_a_string_is_no_batch(student: Student) -> None:
    with pytest.raises(TypeError, match="batch takes several texts"):
        student.batch(WAKE)


def test_a_folder_is_a_student_too(student: Student, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(Path(distilled_nlu.__file__).parents[1] / "service" / "students" / "xs")

    assert Student.load(tmp_path / "mine")(WAKE, locale="de-DE") == student(WAKE, locale="de-DE")


def test_a_shipped_name_wins_over_a_folder_and_a_path_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xs").mkdir()

    assert Student.load("xs").name == "xs"
    for folder in ("./xs", Path("xs")):
        with pytest.raises(StudentError, match=r"manifest\.json"):
            Student.load(folder)


def test_what_is_no_student_names_those_that_ship() -> None:
    with pytest.raises(StudentError, match=r"nowhere: no such folder; shipped students: s, xs"):
        Student.load("nowhere")


def test_a_student_shows_what_it_is(student: Student) -> None:
    assert repr(student).startswith("<Student xs: domain, intent, slots; ")
