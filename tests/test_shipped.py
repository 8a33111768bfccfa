"""The students that ship with the service, as a newcomer meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.manifest import Manifest, read_manifest
from service.settings import SHIPPED_STUDENTS
from service.student import Student
from training import datasets
from training.prediction import answers_of_student
from training.scoring import score_by_locale

LOCALES = ("de-DE", "fr-FR", "it-IT", "es-ES", "en-US")


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.load(SHIPPED_STUDENTS / "s")


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(SHIPPED_STUDENTS / "s")


def answer(student: Student, text: str) -> tuple[str, str, list[tuple[str, str]]]:
    found = student.predict(text)
    assert found.domain is not None
    assert found.intent is not None
    assert found.slots is not None
    assert all(text[s.start : s.end] == s.value for s in found.slots)
    return found.domain[0].name, found.intent[0].name, [(s.name, s.value) for s in found.slots]


@pytest.mark.parametrize(
    ("text", "domain", "intent", "slots"),
    [
        ("weck mich am freitag um neun uhr auf", "alarm", "alarm_set", [("date", "freitag"), ("time", "neun uhr")]),
        ("Weck mich am Freitag um 9 Uhr!", "alarm", "alarm_set", [("date", "Freitag"), ("time", "9 Uhr")]),
        ("réveille-moi demain à sept heures", "alarm", "alarm_set", [("date", "demain"), ("time", "sept heures")]),
        ("che tempo fa domani a roma", "weather", "weather_query", [("date", "domani"), ("place_name", "roma")]),
        (
            "qué tiempo hace mañana en madrid",
            "weather",
            "weather_query",
            [("date", "mañana"), ("place_name", "madrid")],
        ),
        ("what's the weather tomorrow", "weather", "weather_query", [("date", "tomorrow")]),
    ],
)
def test_first_requests(student: Student, text: str, domain: str, intent: str, slots: list[tuple[str, str]]) -> None:
    assert answer(student, text) == (domain, intent, slots)


def test_it_is_as_good_as_promised_and_as_good_on_typed_text(manifest: Manifest) -> None:
    mean, typed = manifest.accuracy["int8"]["mean"], manifest.accuracy["typed"]["mean"]

    assert manifest.accuracy["partition"] == "dev"
    assert mean["intent_accuracy"] >= 83.5
    assert mean["slot_f1"] >= 67.5
    assert mean["exact_match"] >= 58.5
    assert mean["exact_match"] - typed["exact_match"] <= 2


def test_the_manifest_says_what_the_file_does(manifest: Manifest, student: Student, massive: Path) -> None:
    dev = datasets.load(str(massive), LOCALES).part("dev")

    scores = score_by_locale(dev, answers_of_student(student, dev))

    for locale, recorded in manifest.accuracy["int8"].items():
        for metric in ("intent_accuracy", "slot_f1", "exact_match"):
            assert scores[locale][metric] == pytest.approx(recorded[metric], abs=0.3)  # kernels round differently


def test_it_is_small_and_serves_five_locales(manifest: Manifest) -> None:
    assert manifest.locales == LOCALES
    assert manifest.size == "s"
    assert sum(file.stat().st_size for file in SHIPPED_STUDENTS.rglob("*") if file.is_file()) <= 12_000_000


def test_its_card_names_the_data_and_its_licence() -> None:
    card = (SHIPPED_STUDENTS / "s" / "MODEL_CARD.md").read_text()

    assert "MASSIVE" in card
    assert "CC BY 4.0" in card
    assert "FitzGerald" in card
    assert "Tatoeba" in card
    assert "XED" in card


def test_no_sentence_of_the_training_data_is_shipped(manifest: Manifest, sample: Path) -> None:
    own = {u.text for u in datasets.load(str(sample)).utterances}

    assert {golden.text for golden in manifest.golden} <= own
    stage = manifest.training
    while stage:
        assert "/" not in json.dumps(stage["settings"])  # a path could name a person or a machine
        stage = stage.get("init")


@given(st.text(max_size=80))
def test_offsets_hold_on_any_text(student: Student, text: str) -> None:
    answer(student, text)


@pytest.mark.parametrize("character", ["a ", "é", "🦉 ", "م ", "e\u0301 ", "l'", "½"])
def test_offsets_hold_on_ten_thousand_characters(student: Student, character: str) -> None:
    text = character * (10_000 // len(character))

    answer(student, text)

    assert student.predict(text).truncated
