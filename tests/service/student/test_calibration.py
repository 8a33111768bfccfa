"""A calibrated student applies the temperatures, slot confidence and scope of its manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.student.calibration import UNCALIBRATED, by_locale
from service.student.decoding import best, rank, scope_score, softmax
from service.student.manifest import MANIFEST_FILE, Manifest, StudentError
from service.student.student import Question, Student

REQUEST = "weck mich am freitag um neun uhr"
OTHER = "größe"  # a word of no domain

Edit = Callable[[Path, str, Any], None]


def fitted(**changes: Any) -> dict[str, Any]:
    temperatures = {"domain": {"de-DE": 2.0}, "intent": {"de-DE": 0.5}, "slots": {"de-DE": 4.0}}
    return {"data": "own", "partition": "dev", "temperatures": temperatures, **changes}


def scope(method: str, threshold: float) -> dict[str, Any]:
    return {"method": method, "head": "intent", "false_rejection_rate": 0.02, "thresholds": {"de-DE": threshold}}


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate(json.loads((folder / MANIFEST_FILE).read_text()))


def test_a_student_without_calibration_has_no_scope(folder: Path) -> None:
    assert by_locale(manifest_of(folder).calibration) == {}
    assert Student.load(folder).predict(REQUEST, locale="de-DE").in_scope is None


def test_each_locale_has_its_own_temperatures(folder: Path, edit: Edit) -> None:
    edit(folder, "calibration", fitted(scope=scope("energy", 1.5)))

    found = by_locale(manifest_of(folder).calibration)

    assert found == {"de-DE": (0.5, 2.0, 0.25, 1.5)}
    assert UNCALIBRATED == (1.0, 1.0, 1.0, None)


def test_temperatures_change_confidences_and_no_label(folder: Path, edit: Edit) -> None:
    edit(folder, "calibration", fitted())
    student = Student.load(folder)

    plain, calibrated = (student.predict(REQUEST, top_k=3, locale=locale) for locale in ("it-IT", "de-DE"))

    for head, more in (("domain", -1), ("intent", 1), ("slots", -1)):
        before, after = getattr(plain, head), getattr(calibrated, head)
        assert [found.name for found in before] == [found.name for found in after]
        assert np.sign(after[0].confidence - before[0].confidence) == more
    assert calibrated.in_scope is None


def test_the_manifest_sets_how_slot_confidence_is_combined(folder: Path, edit: Edit) -> None:
    found = {}
    for how in ("minimum", "product"):
        edit(folder, "calibration", fitted(slot_confidence=how))
        slots = Student.load(folder).predict(REQUEST, locale="de-DE").slots
        assert slots is not None
        found[how] = {slot.name: slot.confidence for slot in slots}

    assert found["product"]["date"] == found["minimum"]["date"]
    assert found["product"]["time"] == pytest.approx(found["minimum"]["time"] ** 2)  # two words


@pytest.mark.parametrize("method", ["max_softmax", "energy"])
def test_scope_is_judged_by_the_threshold_of_the_locale(folder: Path, edit: Edit, method: str) -> None:
    student = Student.load(folder)
    logits = [student.logits(student.encoder.encode(text))["intent"] for text in (OTHER, REQUEST)]
    low, high = (scope_score(method, row, 2.0, float(softmax(row * 2).max())) for row in logits)
    edit(folder, "calibration", fitted(scope=scope(method, (low + high) / 2)))
    student = Student.load(folder)

    assert student.predict(REQUEST, locale="de-DE").in_scope is True
    assert student.predict(OTHER, locale="de-DE").in_scope is False
    assert student.predict(OTHER, locale="it-IT").in_scope is None
    assert student.predict(OTHER).in_scope is None


def test_a_label_filter_does_not_change_scope(folder: Path, edit: Edit) -> None:
    edit(folder, "calibration", fitted(scope=scope("max_softmax", 0.9)))
    student = Student.load(folder)
    only = student.numbers_of("intent", ["weather_query"])

    [free, filtered] = student.predict_each([Question(OTHER, "de-DE"), Question(OTHER, "de-DE", intents=only)])

    assert free.in_scope is filtered.in_scope is False
    assert filtered.intent is not None
    assert filtered.intent[0].confidence == 1


def test_a_scope_method_of_earlier_exports_is_refused_with_those_that_are_allowed(folder: Path, edit: Edit) -> None:
    golden = json.loads((folder / MANIFEST_FILE).read_text())["golden"]
    edit(folder, "golden", [{**one, "distance": 12.5} for one in golden])
    edit(folder, "calibration", fitted(scope=scope("class_means", -1.5)))

    with pytest.raises(StudentError, match=r"calibration\.scope\.method: Input should be 'max_softmax' or 'energy'"):
        Student.load(folder)


def test_golden_answers_of_earlier_exports_have_a_field_that_is_not_kept(folder: Path, edit: Edit) -> None:
    golden = json.loads((folder / MANIFEST_FILE).read_text())["golden"]
    edit(folder, "golden", [{**one, "distance": None} for one in golden])

    manifest = Student.load(folder).manifest

    assert manifest.model_dump(mode="json")["golden"] == golden


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=8), st.floats(0.1, 10))
def test_energy_is_the_logarithm_of_the_sum_of_exponentials(values: list[float], scale: float) -> None:
    logits = np.array(values, np.float32)
    confidence = best(logits, [""] * len(values), scale).confidence

    expected = math.log(sum(math.exp(float(x) * scale - float(logits.max()) * scale) for x in logits))

    assert scope_score("energy", logits, scale, confidence) == pytest.approx(
        expected + float(logits.max()) * scale, abs=1e-4
    )
    assert scope_score("max_softmax", logits, scale, confidence) == confidence


@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=8, unique=True),
    st.floats(0.1, 10),
)
def test_no_scale_changes_the_ranking(values: list[int], scale: float) -> None:
    logits = np.array(values, np.float32) / 4
    names = [str(value) for value in values]

    ranked = rank(logits, names, scale, len(names))

    seen = [found.confidence for found in ranked]
    assert seen == sorted(seen, reverse=True)
    assert ranked[0].name == best(logits, names, scale).name == max(names, key=int)
    assert [found.name for found in ranked if found.confidence > 1e-30] == sorted(names, key=int, reverse=True)[
        : sum(confidence > 1e-30 for confidence in seen)
    ]
