"""The students that ship with the service, as a newcomer meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.student.manifest import Manifest, read_manifest
from service.student.shipped import SHIPPED_STUDENTS
from service.student.student import Student
from training.data import datasets
from training.evaluation.scoring import score_by_locale
from training.models.prediction import answers_of_student

NAMES = ("s", "xs")
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


@pytest.mark.parametrize(("name", "intent", "slots", "exact"), [("s", 83.5, 67.5, 58.5), ("xs", 83.0, 67.5, 57.0)])
def test_each_is_as_good_as_promised_and_as_good_on_typed_text(
    name: str, intent: float, slots: float, exact: float
) -> None:
    accuracy = read_manifest(SHIPPED_STUDENTS / name).accuracy
    mean, typed = accuracy["int8"]["mean"], accuracy["typed"]["mean"]

    assert accuracy["partition"] == "dev"
    assert mean["intent_accuracy"] >= intent
    assert mean["slot_f1"] >= slots
    assert mean["exact_match"] >= exact
    assert mean["exact_match"] - typed["exact_match"] <= 2


@pytest.mark.parametrize("name", NAMES)
def test_each_is_calibrated_and_tells_requests_from_other_text(name: str) -> None:
    student = Student.load(SHIPPED_STUDENTS / name)
    calibration = student.manifest.calibration

    assert calibration is not None
    assert calibration.scope is not None
    assert calibration.profile.keys() == calibration.scope.thresholds.keys() == set(LOCALES)
    for errors in calibration.measured["expected_calibration_error"].values():
        assert errors.keys() == set(LOCALES)
        assert all(error["after"] <= error["before"] for error in errors.values())
    methods = calibration.measured["scope"]
    assert {"max_softmax", "energy", "class_means"} == methods.keys()
    kept = [found["auroc"] for sources in methods[calibration.scope.method].values() for found in sources.values()]
    assert sum(kept) / len(kept) >= 0.95
    assert student.predict("weck mich am freitag um neun uhr auf", locale="de-DE").in_scope is True
    assert student.predict("der alte mann ging langsam nach hause", locale="de-DE").in_scope is False
    assert student.predict("les enfants couraient pieds nus dans l'herbe", locale="fr-FR").in_scope is False


def test_the_manifest_says_what_the_file_does(manifest: Manifest, student: Student, massive: Path) -> None:
    dev = datasets.load(str(massive), LOCALES).part("dev")

    scores = score_by_locale(dev, answers_of_student(student, dev))

    for locale, recorded in manifest.accuracy["int8"].items():
        for metric in ("intent_accuracy", "slot_f1", "exact_match"):
            assert scores[locale][metric] == pytest.approx(recorded[metric], abs=0.3)  # kernels round differently


@pytest.mark.parametrize(("name", "most"), [("s", 9_000_000), ("xs", 4_000_000)])
def test_each_is_small_and_serves_five_locales(name: str, most: int) -> None:
    manifest = read_manifest(SHIPPED_STUDENTS / name)

    assert manifest.locales == LOCALES
    assert manifest.size == name
    assert sum(file.stat().st_size for file in (SHIPPED_STUDENTS / name).iterdir()) <= most


@pytest.mark.parametrize("name", NAMES)
def test_each_card_names_the_data_and_its_licence(name: str) -> None:
    card = (SHIPPED_STUDENTS / name / "MODEL_CARD.md").read_text()

    assert "MASSIVE" in card
    assert "CC BY 4.0" in card
    assert "FitzGerald" in card
    assert "Tatoeba" in card
    assert "XED" in card


@pytest.mark.parametrize("name", NAMES)
def test_no_sentence_of_the_training_data_is_shipped(name: str, sample: Path) -> None:
    manifest = read_manifest(SHIPPED_STUDENTS / name)
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
