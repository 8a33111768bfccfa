from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import calibration
from export.calibration import (
    Combination,
    Outcomes,
    cross_fitted_error,
    expected_calibration_error,
    fit_confidences,
    fit_temperature,
    mean_errors,
    observe,
    profiles,
    read_slots,
)
from export.data import ExportData
from service.student.calibration import COMBINE
from service.student.decoding import softmax
from service.student.manifest import Head, Labels
from service.student.student import Student
from training.data import datasets

LABELS = Labels(domain=("a", "b"), intent=("a_x", "a_y", "b_z"), slots=("O", "B-t", "I-t"))


def drawn(count: int, labels: int = 5, sharpness: float = 2.0, seed: int = 0) -> Outcomes:
    """Logits, and targets that are drawn from their softmax: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=sharpness, size=(count, labels))
    targets = (softmax(logits).cumsum(axis=-1) > rng.random((count, 1))).argmax(axis=-1)
    return Outcomes.of_labels(logits.astype(np.float32), targets)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_over_and_underconfident_logits_is_found(temperature: float) -> None:
    true = drawn(20_000)

    fitted = fit_temperature(replace(true, logits=true.logits * temperature))

    assert fitted == pytest.approx(temperature, rel=0.03)


def test_a_temperature_stays_within_bounds_where_all_answers_are_right() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2] * 20]

    assert fit_temperature(Outcomes.of_labels(logits, logits.argmax(axis=-1))) == pytest.approx(0.1, rel=0.01)


def test_calibration_error_is_the_gap_of_confidence_and_accuracy() -> None:
    assert expected_calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False])) == (
        pytest.approx(0.15)
    )
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0


def test_calibration_error_of_calibrated_predictions_is_nearly_zero() -> None:
    answers = drawn(50_000)

    assert expected_calibration_error(answers.confidences(1.0), answers.right) < 0.01
    assert expected_calibration_error(answers.confidences(0.4), answers.right) > 0.1


def test_the_cross_fitted_error_is_small() -> None:
    true = drawn(20_000)

    assert cross_fitted_error(replace(true, logits=true.logits * 3)) < 0.02


def slots_of(right_by: Combination, count: int = 4000) -> Outcomes:
    """Slots of one to three words, right with the probability of their combined confidence."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 4, size=count)
    words = rng.normal(scale=2.0, size=(lengths.sum(), 4)).astype(np.float32)
    begins = np.cumsum(lengths) - lengths
    confidences = Outcomes(words, begins, np.zeros(count, bool), combination=right_by).confidences(1.0)
    return Outcomes(words * 2, begins, rng.random(count) < confidences)


@pytest.mark.parametrize("combination", ["minimum", "product"])
def test_the_true_combination_and_temperature_of_slots_are_found(combination: Combination) -> None:
    temperatures, found, measured = fit_confidences({"slots": {"de-DE": slots_of(combination)}})

    errors = measured["expected_calibration_error"]["slots"]["de-DE"]
    assert found == combination
    assert temperatures == {"slots": {"de-DE": pytest.approx(2.0, rel=0.1)}}
    assert errors["after"] < 0.03 < errors["before"]
    assert set(measured["slot_confidence"]) == {"minimum", "product"}


def test_a_subset_of_slots_keeps_their_words() -> None:
    answers = replace(slots_of("product", 10), combination="product")
    chosen = np.arange(10) % 3 == 1

    np.testing.assert_allclose(answers.take(chosen).confidences(1.5), answers.confidences(1.5)[chosen])


def test_a_locale_with_few_labels_keeps_temperature_one_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    temperatures, _, measured = fit_confidences({"domain": {"de-DE": drawn(60), "fr-FR": drawn(49)}})

    errors = measured["expected_calibration_error"]
    assert list(temperatures["domain"]) == ["de-DE"]
    assert "domain: temperature stays 1 with fewer than 50 labels: fr-FR (49)" in caplog.text
    assert mean_errors(errors)["domain"] == errors["domain"]["de-DE"]


def test_a_temperature_that_does_not_help_is_left_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "cross_fitted_error", lambda _: 1.0)

    temperatures, _, measured = fit_confidences({"domain": {"de-DE": drawn(60)}})

    errors = measured["expected_calibration_error"]["domain"]["de-DE"]
    assert temperatures == {"domain": {"de-DE": 1.0}}
    assert errors["after"] == errors["before"]


def test_profiles_are_shares_of_calibrated_answers() -> None:
    logits = np.array([[2.0, 0.0]] * 30 + [[0.0, 1.0]] * 30, np.float32)
    texts = {"de-DE": {"domain": logits}, "fr-FR": {"domain": logits[:9]}}
    temperatures: dict[Head, dict[str, float]] = {"domain": {"de-DE": 2.0}}

    found = profiles(Labels(domain=("a", "b")), texts, temperatures)

    assert list(found) == ["de-DE"]
    assert found["de-DE"].texts == 60
    assert found["de-DE"].domains == {"a": 0.5, "b": 0.5}
    bins = [i for i, share in enumerate(found["de-DE"].confidence) if share]
    assert bins == [int(20 / (1 + math.exp(-0.5))), int(20 / (1 + math.exp(-1)))]
    assert profiles(Labels(slots=LABELS.slots), texts, temperatures) == {}


def test_slots_are_observed_as_the_service_decodes_them(student_folder: Path, sample: Path) -> None:
    student = Student.load(student_folder)
    dev = datasets.load(str(sample), ["de-DE"]).part("dev")

    found = read_slots(student, dev)

    spans = [(u, span) for u in dev for span in student.predict(u.text).slots or ()]
    assert found.right.tolist() == [
        (s.name, s.start, s.end) in {(t.name, t.start, t.end) for t in u.slots} for u, s in spans
    ]
    assert 0 < found.right.mean() <= 1
    served = [span.confidence for _, span in spans]
    np.testing.assert_allclose(found.confidences(1.0), served, rtol=1e-4)
    assert COMBINE.keys() == calibration.COMBINATIONS.keys()


def test_unknown_labels_have_no_outcome(student_folder: Path, sample: Path) -> None:
    student = Student.load(student_folder)
    dev = datasets.load(str(sample), ["de-DE"]).part("dev")
    changed = [replace(u, domain="unheard of" if i % 2 else u.domain, intent=None) for i, u in enumerate(dev)]

    found = observe(student, ExportData("sample", "dev", changed, changed, [], {}, []))

    assert len(found.requests["de-DE"]["domain"]) == len(dev)
    outcomes = found.outcomes["domain"]["de-DE"]
    assert outcomes.right.tolist() == [
        student.predict(u.text).domain[0].name == u.domain
        for u in changed
        if u.domain != "unheard of"  # type: ignore[index]
    ]
    assert len(found.outcomes["intent"]["de-DE"].right) == 0
