"""The students that ship with the service, run on the packaged sample data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from export.calibration import expected_calibration_error
from export.data import by_locale, read_out_of_scope
from export.report import render_card
from service.student.golden import mismatch
from service.student.manifest import SessionOptions, read_manifest
from service.student.predictor import Predictor, open_session
from service.student.shipped import SHIPPED_STUDENTS, shipped_students
from service.student.student import Student
from training.data import datasets
from training.data.augmentation import typed_copy
from training.data.utterances import Utterance
from training.evaluation.scoring import score_by_locale
from training.models.prediction import answers_of_student

LARGER = Path(__file__).parents[1] / "students"  # in the repository, not in the package
LOCALES = ("de-DE", "fr-FR", "it-IT", "es-ES", "en-US")
# Mean over the locales of the held-back sample, in percent. Int8 kernels of other CPUs round differently.
SCORES = {
    "s": {"domain_accuracy": 97.7, "intent_accuracy": 87.5, "slot_f1": 69.8, "exact_match": 43.9},
    "xs": {"domain_accuracy": 97.3, "intent_accuracy": 86.4, "slot_f1": 69.0, "exact_match": 45.5},
    "l": {"domain_accuracy": 97.3, "intent_accuracy": 87.5, "slot_f1": 73.3, "exact_match": 50.8},
    "m": {"domain_accuracy": 97.7, "intent_accuracy": 87.5, "slot_f1": 74.4, "exact_match": 53.0},
}


@pytest.fixture(scope="module", params=shipped_students())
def shipped(request: pytest.FixtureRequest) -> Student:
    return Student.load(SHIPPED_STUDENTS / request.param)


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.load(SHIPPED_STUDENTS / "s")


@pytest.fixture(scope="module")
def held_back(sample: Path) -> list[Utterance]:
    """Dev and test of the sample, which none of the shipped students was trained on."""
    return [u for u in datasets.load(str(sample), LOCALES).utterances if u.partition != "train"]


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


def test_quality_on_held_back_text_and_its_typed_copy(shipped: Student, held_back: list[Utterance]) -> None:
    expected = SCORES[shipped.manifest.name]

    for utterances, tolerance in ((held_back, 1.5), (typed_copy(held_back), 4)):
        scores = score_by_locale(utterances, answers_of_student(shipped, utterances))["mean"]
        assert {metric: scores[metric] for metric in expected} == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", sorted(folder.parent.name for folder in LARGER.glob("*/manifest.json")))
def test_quality_of_the_larger_students(name: str, held_back: list[Utterance]) -> None:
    expected = SCORES[name]

    scores = score_by_locale(held_back, answers_of_student(Student.load(LARGER / name), held_back))["mean"]

    assert {metric: scores[metric] for metric in expected} == pytest.approx(expected, abs=1.5)


def test_temperatures_lower_the_calibration_error_of_slots(shipped: Student, held_back: list[Utterance]) -> None:
    """Of slots alone: domains and intents are right more often here than on the text that they are fitted on."""

    def error(calibrated: bool) -> float:
        predictions = [shipped.predict(u.text, locale=u.locale if calibrated else None) for u in held_back]
        expected = {(u, slot.name, slot.start, slot.end) for u in held_back for slot in u.slots}
        slots = [
            (slot.confidence, (u, slot.name, slot.start, slot.end) in expected)
            for p, u in zip(predictions, held_back, strict=True)
            for slot in p.slots or ()
        ]
        return expected_calibration_error(*map(np.array, zip(*slots, strict=True)))

    assert error(calibrated=True) < error(calibrated=False)


def test_scope_separates_requests_from_other_text(shipped: Student, held_back: list[Utterance]) -> None:
    out_of_scope = read_out_of_scope([], LOCALES)

    for locale, requests in by_locale(held_back).items():
        accepted = [shipped.predict(u.text, locale=locale).in_scope is True for u in requests]
        rejected = [shipped.predict(text, locale=locale).in_scope is False for text in out_of_scope[locale]["sample"]]
        assert np.mean(accepted) >= 0.9
        assert np.mean(rejected) >= 0.6


def test_the_manifest_says_what_the_file_does(student: Student, massive: Path) -> None:
    dev = datasets.load(str(massive), LOCALES).part("dev")

    scores = score_by_locale(dev, answers_of_student(student, dev))

    for locale, recorded in student.manifest.accuracy["int8"].items():
        for metric in ("intent_accuracy", "slot_f1", "exact_match"):
            assert scores[locale][metric] == pytest.approx(recorded[metric], abs=0.3)  # kernels round differently


@pytest.mark.parametrize("name", shipped_students())
def test_the_card_is_the_one_that_the_export_renders_with_its_attribution(name: str) -> None:
    folder = SHIPPED_STUDENTS / name
    notice = (Path(__file__).parents[1] / "docs" / "notices" / f"{name}.md").read_text(encoding="utf-8")

    assert (folder / "MODEL_CARD.md").read_text(encoding="utf-8") == render_card(read_manifest(folder), notice)
    for attribution in ("MASSIVE", "CC BY 4.0", "FitzGerald", "Tatoeba", "XED"):
        assert attribution in notice


@given(st.text(max_size=80))
def test_offsets_hold_on_any_text(student: Student, text: str) -> None:
    answer(student, text)


@pytest.mark.parametrize("character", ["a ", "é", "🦉 ", "م ", "e\u0301 ", "l'", "½"])
def test_offsets_hold_on_ten_thousand_characters(student: Student, character: str) -> None:
    text = character * (10_000 // len(character))

    answer(student, text)

    assert student.predict(text).truncated


def scaled(student: Student, name: str, factor: float) -> Predictor:
    """A student with one quantisation scale multiplied."""
    model = onnx.load(str(SHIPPED_STUDENTS / student.manifest.name / "model.onnx"))
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return Predictor(student.labels, student.encoder, session, student.manifest.calibration)


def accepted(student: Student, predictor: Predictor) -> bool:
    """Whether a graph passes as the student's."""
    manifest = student.manifest
    return all(mismatch(predictor, golden, manifest.golden_tolerance) is None for golden in manifest.golden)


def scales_of(student: Student) -> list[str]:
    """The names of the quantisation scales in a student's graph."""
    model = onnx.load(str(SHIPPED_STUDENTS / student.manifest.name / "model.onnx"))
    names = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith("_scale")]
    assert names
    return names


def test_golden_answers_differ_for_changed_scales(shipped: Student) -> None:
    scales, factors = scales_of(shipped), (0.75, 1.5)
    if shipped.manifest.name == "s":  # it takes longer
        scales = scales[::3]

    assert [(name, by) for name in scales for by in factors if accepted(shipped, scaled(shipped, name, by))] == []


@pytest.mark.slow
def test_no_changed_scale_is_accepted(shipped: Student) -> None:
    """Every scale by every factor; docs/student-folder.md has the counts."""
    changes = [(name, by) for name in scales_of(shipped) for by in (0.5, 0.75, 1.5, 2.0)]

    assert [(name, by) for name, by in changes if accepted(shipped, scaled(shipped, name, by))] == []


def test_golden_answers_differ_for_an_intent_head_at_a_quarter_of_its_scale(shipped: Student) -> None:
    graph = onnx.load(str(SHIPPED_STUDENTS / shipped.manifest.name / "model.onnx")).graph
    [scale] = {
        name
        for node in graph.node
        if node.name.startswith("/intent/")
        for name in node.input
        if name in scales_of(shipped)
    }

    assert not accepted(shipped, scaled(shipped, scale, 0.25))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "disabled", [(), ("SkipLayerNormFusion",), ("LayerNormFusion", "GeluFusion", "MatmulAddFusion")]
)
def test_golden_answers_hold_for_other_session_options(
    shipped: Student, threads: int, disabled: tuple[str, ...]
) -> None:
    options = SessionOptions(intra_op_num_threads=threads, disabled_optimizers=disabled)
    session = open_session(SHIPPED_STUDENTS / shipped.manifest.name / "model.onnx", options)

    assert accepted(shipped, Predictor(shipped.labels, shipped.encoder, session, shipped.manifest.calibration))
