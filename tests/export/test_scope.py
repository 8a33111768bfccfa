from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.calibration import Observations
from export.graph import FEATURES, SESSION, export_fp32
from export.quantization import quantise_int8
from export.scope import ClassMeans, auroc, false_rejection, fit_scope, means_by_method, threshold_of, write_served
from service.student.manifest import Labels
from service.student.predictor import open_session
from training.models.student import StudentConfig, StudentModel

LABELS = Labels(intent=("x", "y", "z"))
TEMPERATURES = {"intent": {"de-DE": 1.2}}
scores = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12).map(np.array)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_the_right_order(inside: np.ndarray, outside: np.ndarray) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]

    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=300).map(np.array), st.floats(0.001, 0.999))
def test_a_threshold_rejects_at_most_the_given_share(values: np.ndarray, rate: float) -> None:
    assert (values < threshold_of(values, rate)).mean() <= rate


def test_false_rejection_is_measured_on_the_other_half() -> None:
    values = np.random.default_rng(0).normal(size=5000)

    assert false_rejection(values, values, 0.02) == pytest.approx(0.02, abs=0.005)
    assert false_rejection(values, values - 10, 0.02) == 1


def clusters(count: int, seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes that vary much in two directions and little in the others, where `offset` is added."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, size=count)
    means = np.random.default_rng(9).normal(size=(3, 6))
    values = means[classes] + rng.normal(size=(count, 6)) * np.array([5, 5, 0.1, 0.1, 0.1, 0.1])
    values[:, 2:] += offset
    return values.astype(np.float32), classes


def test_distance_is_mahalanobis_with_one_covariance_for_all_classes() -> None:
    features, classes = clusters(3000, 0)
    texts, _ = clusters(20, 1)

    found = ClassMeans.fit(features, classes, directions=6).distances(texts)

    values = features.astype(np.float64)
    means = np.stack([values[classes == c].mean(axis=0) for c in range(3)])
    within = values - means[classes]
    covariance = within.T @ within / len(within)
    inverse = np.linalg.inv(covariance + 1e-3 * np.trace(covariance) / 6 * np.eye(6))
    expected = [min((text - mean) @ inverse @ (text - mean) for mean in means) for text in texts.astype(np.float64)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_directions_of_least_variance_separate_best() -> None:
    features, classes = clusters(3000, 0)
    inside, outside = clusters(500, 1)[0], clusters(500, 2, offset=0.3)[0]

    def auroc_of(directions: int) -> float:
        means = ClassMeans.fit(features, classes, directions)
        return auroc(-means.distances(inside), -means.distances(outside))

    assert auroc_of(4) > 0.9
    assert auroc_of(4) >= auroc_of(6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_computes_the_distance(tmp_path: Path, precision: str) -> None:
    torch.manual_seed(0)
    model = StudentModel(StudentConfig.of_size("xs", LABELS, vocab_size=50)).eval()
    graph, served = tmp_path / "graph.onnx", tmp_path / "served.onnx"
    export_fp32(model, graph, with_features=True)
    if precision == "int8":
        quantise_int8(graph, graph)
    ids = [np.random.default_rng(n).integers(4, 50, size=1 + n % 64) for n in range(200)]
    session = open_session(graph, SESSION)
    features = np.array([session.run(["features"], {"input_ids": i})[0] for i in ids])
    logits = [session.run(["intent_logits"], {"input_ids": i})[0] for i in ids]
    rng = np.random.default_rng(0)
    means = ClassMeans(features.mean(axis=0), rng.normal(size=(256, 32)), rng.normal(size=(3, 32)))

    write_served(graph, served, means)

    session = open_session(served, SESSION)
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("intent_logits", [3]), ("distance", [])]
    found = [session.run(None, {"input_ids": i}) for i in ids]
    np.testing.assert_allclose([float(d) for _, d in found], means.distances(features), rtol=1e-3)
    np.testing.assert_array_equal([found_logits for found_logits, _ in found], logits)
    write_served(graph, served, None)
    assert [o.name for o in open_session(served, SESSION).get_outputs()] == ["intent_logits"]


def observed(offset: float = 0.5, requests: int = 400, **changes: object) -> Observations:
    """Requests in three clusters; out-of-scope text lies beside them and has slightly lower logits."""
    rng = np.random.default_rng(0)

    def texts(count: int, seed: int, foreign: bool) -> dict[str, np.ndarray]:
        features, classes = clusters(count, seed, offset if foreign else 0.0)
        logits = rng.normal(size=(count, 3)) + (2 if foreign else 3) * np.eye(3)[classes]
        return {"intent": logits.astype(np.float32), FEATURES: features}

    fields: dict[str, object] = {
        "outcomes": {},
        "requests": {"de-DE": texts(requests, 1, False), "en-US": texts(30, 2, False)},
        "typed": {"de-DE": texts(requests, 1, False), "en-US": texts(30, 2, False)},
        "out_of_scope": {"de-DE": {"novels": texts(300, 3, True)}},
        "train": clusters(3000, 4),
    }
    return Observations(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_method_of_highest_auroc_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    scope, class_means, measured = fit_scope(LABELS, observed(), TEMPERATURES, 0.02)

    assert scope is not None
    assert scope.method == "class_means"
    assert class_means is not None
    assert list(scope.thresholds) == ["de-DE"]
    assert "fewer than 50 requests: en-US (30)" in caplog.text
    means = means_by_method(measured["scope"])
    assert set(means) == {"max_softmax", "energy", "class_means"}
    assert max(means, key=lambda method: means[method]["auroc"]) == "class_means"
    assert means["class_means"]["false_acceptance"] < 0.3
    assert measured["false_rejection"]["de-DE"]["plain"] == pytest.approx(0.02, abs=0.02)


def test_another_method_needs_no_class_means() -> None:
    scope, class_means, measured = fit_scope(LABELS, observed(offset=0.0), TEMPERATURES, 0.02)

    assert scope is not None
    assert scope.method in ("max_softmax", "energy")
    assert class_means is None
    assert "directions" not in measured


def test_without_training_texts_class_means_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    _, _, measured = fit_scope(LABELS, observed(train=None), TEMPERATURES, 0.02)

    assert set(measured["scope"]) == {"max_softmax", "energy"}
    assert "no training texts" in caplog.text


def test_without_out_of_scope_text_there_is_still_a_threshold(caplog: pytest.LogCaptureFixture) -> None:
    scope, _, measured = fit_scope(LABELS, observed(out_of_scope={}), TEMPERATURES, 0.05)

    assert scope is not None
    assert scope.method == "energy"
    assert "de-DE" in scope.thresholds
    assert means_by_method(measured["scope"]) == {}
    assert "to compare methods on" in caplog.text


def test_with_few_requests_there_is_no_scope() -> None:
    assert fit_scope(LABELS, observed(requests=49), TEMPERATURES, 0.02) == (None, None, {})


def test_with_slots_only_there_is_no_scope() -> None:
    assert fit_scope(Labels(slots=("O",)), observed(), {}, 0.02) == (None, None, {})
