from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx as onnx_library
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from export import gate, onnx, pipeline
from export.folder import ExportError
from export.gate import MetricDrop, drops_of, quantise_within
from export.graph import export_fp32
from export.quantization import quantisable_nodes, quantise_int8
from service.student.manifest import Drop, Labels, read_manifest
from service.student.student import Student
from training.data import datasets
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import PredictedLabels
from training.models.checkpoint import load_checkpoint

LABELS = Labels(domain=("alarm", "music"), intent=("alarm_set", "music_play"), slots=("O", "B-time", "I-time"))
RIGHT = PredictedLabels("alarm", "alarm_set", (Slot("time", 5, 8),))
WRONG = PredictedLabels("music", "music_play", ())


def utterances(count: int, **changes: Any) -> list[Utterance]:
    """`count` sentences that `RIGHT` answers."""
    labels = {"domain": "alarm", "intent": "alarm_set", "slots": (Slot("time", 5, 8),)} | changes
    return [Utterance(str(i), "weck mich", "de-DE", **labels) for i in range(count)]


def exceeding(texts: Sequence[Utterance], after: Sequence[PredictedLabels], max_drop: float = 0.5) -> set[str]:
    """The metrics whose drop exceeds the budget if fp32 answers all texts with `RIGHT`."""
    found = drops_of(texts, LABELS, [RIGHT] * len(texts), after)
    return {drop.metric for drop in found if drop.exceeds(max_drop)}


@pytest.mark.parametrize("count", [1, 2, 3, 10, 40, 200])
def test_one_changed_answer_is_no_loss(count: int) -> None:
    assert exceeding(utterances(count), [WRONG] + [RIGHT] * (count - 1)) == set()


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_a_collapse_is_a_loss_on_few_texts_too(count: int) -> None:
    right = count // 5
    assert exceeding(utterances(count), [WRONG] * (count - right) + [RIGHT] * right) == set(gate.GATED)


def test_a_drop_beyond_the_budget_is_a_loss_where_the_texts_show_it() -> None:
    texts = utterances(2000)

    assert exceeding(texts, [WRONG] * 30 + [RIGHT] * 1970) == set(gate.GATED)  # 1.5 points
    assert exceeding(texts, [WRONG] * 14 + [RIGHT] * 1986) == set()  # 0.7 points
    assert exceeding(texts, [WRONG] * 30 + [RIGHT] * 1970, max_drop=2.0) == set()
    gained = drops_of(texts, LABELS, [WRONG] * 2000, [RIGHT] * 2000)
    assert {drop.points for drop in gained} == {-100.0}
    assert not any(drop.exceeds(0.5) for drop in gained)


UNLABELLED = {"domain": None, "intent": None, "slots": ()}
UNKNOWN = {"domain": "x", "intent": "x_y", "slots": (Slot("city", 5, 8),)}


@pytest.mark.parametrize("changes", [UNLABELLED, UNKNOWN])
def test_without_labels_of_the_student_the_agreement_with_fp32_counts(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    texts = utterances(40, **changes)
    agreements = {f"{head}_agreement" for head in LABELS.heads}

    assert exceeding(texts, [WRONG] * 3 + [RIGHT] * 37) == set()
    assert exceeding(texts, [WRONG] * 20 + [RIGHT] * 20) == agreements

    found = gate.Gate(0.5, drops_of(texts, LABELS, [RIGHT] * 40, [RIGHT] * 40), [RIGHT] * 40)
    gate.warn(found)
    assert found.passed
    assert "the data has no labels of the student for intent" in caplog.text
    assert found.report().drops["intent_agreement"] == {"de-DE": Drop(drop=0, low=0, high=0)}


def test_a_head_with_labels_in_one_locale_is_measured_there() -> None:
    french = [Utterance(str(i), "joue", "fr-FR") for i in range(5)]

    found = drops_of([*utterances(5), *french], LABELS, [RIGHT] * 10, [RIGHT] * 10)

    assert [drop.metric for drop in found if drop.locale == "de-DE"] == list(gate.GATED)
    assert {drop.metric for drop in found if drop.locale == "fr-FR"} == {f"{head}_agreement" for head in LABELS.heads}


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "fp32.onnx"
    export_fp32(load_checkpoint(checkpoint).model, path)
    return path


def fp32_nodes(graph: Path, candidates: Sequence[str]) -> list[str]:
    """The candidates that are still fp32 nodes of a graph."""
    loaded = onnx_library.load(str(graph)).graph
    weights = {x.name for x in loaded.initializer if x.data_type == onnx_library.TensorProto.FLOAT}
    return [node.name for node in loaded.node if node.name in candidates and weights.intersection(node.input)]


def drop_of(points: float) -> list[MetricDrop]:
    return [MetricDrop("de-DE", "exact_match", 60.0, 60.0 - points, points, points, 10)]


@pytest.mark.parametrize("needed", [0, 1, 3, 6])
def test_as_few_nodes_as_possible_stay_in_fp32(fp32: Path, tmp_path: Path, needed: int) -> None:
    order = quantisable_nodes(fp32)
    graph = tmp_path / "int8.onnx"

    def drops(_: object) -> list[MetricDrop]:
        return drop_of(2.0 * (needed - len(fp32_nodes(graph, order[:needed]))))

    found = quantise_within(0.5, fp32, graph, drops, lambda _: [RIGHT], lambda: order)

    assert found.kept == order[:needed]
    assert found.passed
    assert sorted(fp32_nodes(graph, order)) == sorted(order[:needed])


def test_an_error_names_metric_locale_and_what_to_do_if_no_graph_passes(fp32: Path, tmp_path: Path) -> None:
    loss = r"int8 loses 1\.50 points of exact_match in de-DE \(60\.00 -> 58\.50, 95 % interval 1\.50 to 1\.50\)"
    expected = loss + r"; allowed: 1\. .*--max-drop none"
    with pytest.raises(ExportError, match=expected):
        quantise_within(
            1.0, fp32, tmp_path / "int8.onnx", lambda _: drop_of(1.5), lambda _: [], lambda: quantisable_nodes(fp32)
        )


@pytest.fixture(scope="module")
def with_outlier(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one embedding, of a token that no text has, 400 times as large: int8 rounds all others to 0."""
    folder = tmp_path_factory.mktemp("outlier") / "ckpt"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    table = weights["token_embeddings.weight"].clone()
    table[-1] = 400 * table.abs().max() * torch.ones(table.shape[1])
    save_file({**weights, "token_embeddings.weight": table}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_student_that_collapses_in_int8_is_mended_without_flags(
    with_outlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"

    assert onnx.main(["--ckpt", str(with_outlier), "--out", str(out)]) == 0

    manifest = read_manifest(out)
    assert manifest.quality_gate is not None
    assert manifest.quality_gate.passed
    assert manifest.quality_gate.max_drop == 0.5
    assert manifest.quality_gate.kept_fp32 == ("/token_embeddings/Gather",)
    assert set(manifest.quality_gate.drops) == set(gate.GATED)
    intents = {name: manifest.accuracy[name]["de-DE"]["intent_accuracy"] for name in ("fp32", "int8")}
    assert intents["int8"] > intents["fp32"] - 5
    assert "Kept in fp32 to pass: /token_embeddings/Gather" in (out / "MODEL_CARD.md").read_text()
    assert "/token_embeddings/Gather" in manifest.graph.quantisation
    captured = capsys.readouterr()
    assert "Quality gate of int8 against fp32 (0.5 points): passed" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["quality_gate"]["kept_fp32"] == ["/token_embeddings/Gather"]


def test_any_loss_is_exported_on_request_with_a_warning(
    with_outlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"

    assert onnx.main(["--ckpt", str(with_outlier), "--out", str(out), "--max-drop", "none"]) == 0

    found = read_manifest(out).quality_gate
    assert found is not None
    assert (found.max_drop, found.passed, found.kept_fp32) == (None, False, ())
    assert found.drops["intent_accuracy"]["de-DE"].low > 5
    assert "--max-drop none: the quality gate is off, and int8 loses" in capsys.readouterr().err
    assert "(off): the loss is too large" in (out / "MODEL_CARD.md").read_text()


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage every int8 graph of the export, whatever its nodes."""

    def quantise(source: Path, path: Path, **more: Any) -> None:
        quantise_int8(source, path, **more)
        model = onnx_library.load(str(path))
        norm = next(x for x in model.graph.initializer if "norm" in x.name and x.name.endswith("weight"))
        norm.CopyFrom(numpy_helper.from_array(-3 * numpy_helper.to_array(norm), norm.name))
        onnx_library.save(model, str(path))

    for module in (gate, pipeline):
        monkeypatch.setattr(module, "quantise_int8", quantise)


@pytest.mark.usefixtures("spoiled")
def test_int8_that_fails_with_any_nodes_in_fp32_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "student")]

    assert onnx.main(command) == 2

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: int8 loses ")
    assert "in de-DE" in error
    assert list(tmp_path.iterdir()) == []

    assert onnx.main([*command, "--precision", "auto"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["precision"] == "fp32"
    assert read_manifest(tmp_path / "student").quality_gate is None
    assert Student.load(tmp_path / "student").predict("weck mich auf", locale="de-DE").intent


def test_labels_of_others_are_judged_by_agreement_with_fp32(
    with_outlier: Path, checkpoint: Path, tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    german = datasets.load(str(sample), ["de-DE"]).utterances
    rows = [datasets.row_of(replace(u, domain="other", intent="other_x", slots=())) for u in german]
    data = tmp_path / "de-DE.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    command = ["--data", str(data), "--no-calibration"]

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "sound"), *command]) == 0
    assert "the data has no labels of the student for intent" in capsys.readouterr().err
    assert onnx.main(["--ckpt", str(with_outlier), "--out", str(tmp_path / "mended"), *command]) == 0

    gates = [read_manifest(tmp_path / name).quality_gate for name in ("sound", "mended")]
    assert [found and found.kept_fp32 for found in gates] == [(), ("/token_embeddings/Gather",)]
    assert "only the agreement with fp32 was measured" in (tmp_path / "mended" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("value", ["-1", "101", "nan", "little"])
def test_an_invalid_budget_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        onnx.parser().parse_args(["--ckpt", "c", "--out", "o", "--max-drop", value])

    assert "allowed: points of percent, 0 to 100, or none" in capsys.readouterr().err
