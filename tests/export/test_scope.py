from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.class_means import ClassMeans
from export.folder import ExportError
from export.graph import SESSION, export_fp32, quantise_int8, replace_features
from export.observation import Texts
from export.scope import Evidence, auroc, false_rejection, judge, means_by_method, read_outside, threshold_of
from service.student.manifest import Labels
from service.student.student import open_session
from training.models.student import StudentConfig, StudentModel
from training.text.corpus import CorpusError

LOCALES = ["de-DE", "en-US"]
scores = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12).map(np.array)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_the_right_order(inside: np.ndarray, outside: np.ndarray) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]

    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


def test_auroc_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 200).round(1)

    expected = metrics.roc_auc_score([1] * 300 + [0] * 200, np.concatenate([inside, outside]))

    assert auroc(inside, outside) == pytest.approx(expected)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=300).map(np.array), st.floats(0.001, 0.999))
def test_a_threshold_rejects_no_more_than_it_may(values: np.ndarray, rate: float) -> None:
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


def test_the_directions_of_least_variation_tell_foreign_text_better_than_all_others() -> None:
    features, classes = clusters(3000, 0)
    inside, outside = clusters(500, 1)[0], clusters(500, 2, offset=0.3)[0]

    def told(directions: int) -> float:
        means = ClassMeans.fit(features, classes, directions)
        return auroc(-means.distances(inside), -means.distances(outside))

    assert told(4) > 0.9
    assert told(4) >= told(6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_computes_the_distance(tmp_path: Path, precision: str) -> None:
    torch.manual_seed(0)
    labels = Labels(intent=("x", "y", "z"))
    model = StudentModel(StudentConfig.of_size("xs", labels, vocab_size=50)).eval()
    fp32, served = tmp_path / "fp32.onnx", tmp_path / "served.onnx"
    export_fp32(model, fp32, with_features=True)
    if precision == "int8":
        quantise_int8(fp32, served)
    else:
        fp32.replace(served)
    ids = [np.random.default_rng(n).integers(4, 50, size=(1, 1 + n % 64)) for n in range(200)]
    session = open_session(served, SESSION)
    features = np.concatenate([session.run(["features"], {"input_ids": i})[0] for i in ids])
    logits = [session.run(["intent_logits"], {"input_ids": i})[0] for i in ids]
    rng = np.random.default_rng(0)
    means = ClassMeans(features.mean(axis=0), rng.normal(size=(256, 32)), rng.normal(size=(3, 32)))

    replace_features(served, means)

    session = open_session(served, SESSION)
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("intent_logits", [1, 3]), ("distance", [1])]
    found = [session.run(None, {"input_ids": i}) for i in ids]
    np.testing.assert_allclose(np.concatenate([d for _, d in found]), means.distances(features), rtol=1e-3)
    np.testing.assert_array_equal([found_logits for found_logits, _ in found], logits)
    replace_features(served, None)
    assert [o.name for o in open_session(served, SESSION).get_outputs()] == ["intent_logits", "distance"]


def evidence(offset: float = 0.5, requests: int = 400, **changes: object) -> Evidence:
    """Requests in three clusters; foreign text lies beside them, and gets logits that tell it a little."""
    rng = np.random.default_rng(0)

    def texts(count: int, seed: int, foreign: bool) -> Texts:
        features, classes = clusters(count, seed, offset if foreign else 0.0)
        logits = rng.normal(size=(count, 3)) + (2 if foreign else 3) * np.eye(3)[classes]
        return Texts({"intent": logits.astype(np.float32)}, features)

    fields: dict[str, object] = {
        "head": "intent",
        "names": ("x", "y", "z"),
        "temperatures": {"de-DE": 1.2},
        "requests": {"de-DE": texts(requests, 1, False), "en-US": texts(30, 2, False)},
        "typed": {"de-DE": texts(requests, 1, False), "en-US": texts(30, 2, False)},
        "outside": {"de-DE": {"novels": texts(300, 3, True)}},
        "train": clusters(3000, 4),
    }
    return Evidence(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_method_that_tells_best_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    judged = judge(evidence(), 0.02)

    assert judged is not None
    assert judged.scope.method == "class_means"
    assert judged.means is not None
    assert list(judged.scope.thresholds) == ["de-DE"]
    assert "fewer than 50 requests: en-US (30)" in caplog.text
    means = means_by_method(judged.measured["scope"])
    assert set(means) == {"max_softmax", "energy", "class_means"}
    assert max(means, key=lambda method: means[method]["auroc"]) == "class_means"
    assert means["class_means"]["false_acceptance"] < 0.3
    assert judged.measured["false_rejection"]["de-DE"]["plain"] == pytest.approx(0.02, abs=0.02)


def test_another_method_needs_no_class_means() -> None:
    judged = judge(evidence(offset=0.0), 0.02)

    assert judged is not None
    assert judged.scope.method in ("max_softmax", "energy")
    assert judged.means is None


def test_without_training_texts_class_means_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    judged = judge(evidence(train=None), 0.02)

    assert judged is not None
    assert set(judged.measured["scope"]) == {"max_softmax", "energy"}
    assert "no training texts" in caplog.text


def test_without_foreign_text_there_is_a_threshold_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    judged = judge(evidence(outside={}), 0.05)

    assert judged is not None
    assert judged.scope.method == "energy"
    assert "de-DE" in judged.scope.thresholds
    assert means_by_method(judged.measured["scope"]) == {}
    assert "to compare methods on" in caplog.text


def test_with_few_requests_scope_is_not_judged() -> None:
    assert judge(evidence(requests=49), 0.02) is None


def test_own_sentences_stand_for_each_locale_of_the_sample() -> None:
    outside = read_outside([], ["de-DE", "fr-FR", "it-IT", "es-ES", "en-US", "pt-PT"])

    assert list(outside) == ["de-DE", "fr-FR", "it-IT", "es-ES", "en-US"]
    for sources in outside.values():
        assert len(sources["sample"]) == 40
        assert all(text == text.lower() and text[-1].isalpha() for text in sources["sample"])


def test_sentences_are_read_in_spoken_form_and_few(tmp_path: Path) -> None:
    lines = [
        "Zu kurz.",
        "— Er sagte: «L’album -- ist da»!",
        "Es waren 12 Monate.",
        "eins zwei " * 8,
        "So ist es.",
        "so ist es",
    ]
    (tmp_path / "novels.txt").write_text("\n".join(lines))
    with gzip.open(tmp_path / "many.txt.gz", "wt") as stream:
        stream.write("\n".join(f"a b {chr(97 + n % 26)}{'x' * (n // 26)}" for n in range(1500)))

    outside = read_outside([f"de-DE={tmp_path}/novels.txt,{tmp_path}/many.txt.gz"], LOCALES)

    assert sorted(outside["de-DE"]["novels"]) == ["er sagte l'album ist da", "so ist es"]
    assert len(outside["de-DE"]["many"]) == 1000
    assert outside == read_outside([f"de-DE={tmp_path}/novels.txt,{tmp_path}/many.txt.gz"], LOCALES)


def test_of_clinc150_the_sentences_out_of_scope_are_read(tmp_path: Path) -> None:
    content = {"train": [["wake me up at nine", "alarm"]], "oos_test": [["how do trees breathe", "oos"]]}
    (tmp_path / "data_full.json").write_text(json.dumps(content))
    with gzip.open(tmp_path / "data_full.json.gz", "wt") as stream:
        stream.write(json.dumps(content))

    for name in ("data_full.json", "data_full.json.gz"):
        assert read_outside([f"en-US={tmp_path / name}"], LOCALES) == {"en-US": {"clinc150": ["how do trees breathe"]}}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("de-DE", "allowed: LOCALE=PATH"),
        ("pt-PT=x.txt", "a locale of de-DE, en-US"),
        ("de-DE={folder}/a.txt,{folder}/a.txt", "named twice"),
        ("de-DE={folder}/short.txt", "no sentence of 3 to 15 words"),
        ("de-DE={folder}/a.json", "no data_full.json"),
        ("de-DE={folder}/list.json", "no data_full.json"),
        ("de-DE={folder}/none.txt", "no text there"),
    ],
)
def test_text_that_cannot_be_used_is_refused(tmp_path: Path, flag: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("das ist ein satz")
    (tmp_path / "short.txt").write_text("kurz")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")

    with pytest.raises((ExportError, CorpusError), match=message):
        read_outside([flag.format(folder=tmp_path)], LOCALES)
