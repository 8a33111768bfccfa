from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_library
import pytest
from onnx import numpy_helper

from export import onnx, pipeline, quantization
from export.folder import ExportError
from export.graph import SESSION, export_fp32
from export.quantization import (
    Loss,
    Scores,
    by_sensitivity,
    max_loss,
    quantisable_nodes,
    quantise_int8,
    quantise_within,
)
from service.student.manifest import read_manifest
from service.student.predictor import Predictor, open_session
from service.student.student import Student
from training.models.checkpoint import load_checkpoint

TEXTS = ["weck mich um neun uhr", "wie wird das wetter morgen", "spiel musik"]


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "fp32.onnx"
    export_fp32(load_checkpoint(checkpoint).model, path)
    return path


@pytest.fixture(scope="module")
def order(fp32: Path, checkpoint: Path) -> list[str]:
    """The nodes, the most sensitive first."""
    loaded = load_checkpoint(checkpoint)

    def open_graph(path: Path) -> Predictor:
        return Predictor(loaded.labels, loaded.encoder, open_session(path, SESSION))

    return by_sensitivity(fp32, open_graph, TEXTS)


def quantised_nodes(graph: Path, candidates: Sequence[str]) -> set[str]:
    """The candidates that are no longer fp32 nodes of a graph."""
    nodes = {node.name: node for node in onnx_library.load(str(graph)).graph.node}
    weights = {x.name for x in onnx_library.load(str(graph)).graph.initializer if x.data_type == 1}
    return {name for name in candidates if name not in nodes or not weights.intersection(nodes[name].input)}


def test_the_greatest_loss_is_that_of_a_gated_metric() -> None:
    before = {"de-DE": {"intent_accuracy": 80.0, "exact_match": 50.0, "semer": 30.0}, "fr-FR": {"slot_f1": 60.0}}
    after = {"de-DE": {"intent_accuracy": 79.0, "exact_match": 50.5, "semer": 40.0}, "fr-FR": {"slot_f1": 57.0}}

    found = max_loss(before, after)

    assert found == Loss("fr-FR", "slot_f1", 60.0, 57.0)
    assert str(found) == "3.00 points of slot_f1 in fr-FR (60.00 -> 57.00)"
    assert found.within(3.0)
    assert not found.within(2.9)
    assert max_loss({"de-DE": before["de-DE"]}, after) == Loss("de-DE", "intent_accuracy", 80.0, 79.0)


def test_keep_and_only_select_the_quantised_nodes(fp32: Path, tmp_path: Path) -> None:
    nodes = quantisable_nodes(fp32)
    quantise_int8(fp32, tmp_path / "plain.onnx")
    quantise_int8(fp32, tmp_path / "kept.onnx", keep=nodes[:2])
    quantise_int8(fp32, tmp_path / "only.onnx", only=nodes[2:3])

    assert quantised_nodes(fp32, nodes) == set()
    assert quantised_nodes(tmp_path / "plain.onnx", nodes) == set(nodes)
    assert quantised_nodes(tmp_path / "kept.onnx", nodes) == set(nodes[2:])
    assert quantised_nodes(tmp_path / "only.onnx", nodes) == {nodes[2]}


@pytest.mark.parametrize("needed", [0, 1, 3, 6])
def test_as_few_nodes_as_possible_stay_in_fp32(fp32: Path, order: list[str], tmp_path: Path, needed: int) -> None:
    nodes = quantisable_nodes(fp32)
    assert sorted(order) == sorted(nodes)

    def score(graph: Path) -> Scores:
        return {"de-DE": {"exact_match": 60.0 - 2 * len(quantised_nodes(graph, order[:needed]))}}

    found = quantise_within(0.5, fp32, tmp_path / "int8.onnx", score, lambda: order)

    assert found["kept_in_fp32"] == order[:needed]
    assert quantised_nodes(tmp_path / "int8.onnx", nodes) == set(order[needed:])
    assert [trial["passes"] for trial in found["search"]].count(True) >= 1


def test_an_error_names_metric_and_locale_if_no_graph_passes(fp32: Path, tmp_path: Path) -> None:
    def score(graph: Path) -> Scores:
        return {"de-DE": {"slot_f1": 70.0}, "fr-FR": {"slot_f1": 70.0 if graph == fp32 else 68.5}}

    with pytest.raises(ExportError, match=r"int8 loses 1\.50 points of slot_f1 in fr-FR .*; allowed: 1\."):
        quantise_within(1.0, fp32, tmp_path / "int8.onnx", score, lambda: quantisable_nodes(fp32))


def wrong_scale(path: Path, layer: str) -> bool:
    """Multiply the scale of a layer's quantised weights; returns whether the graph has it."""
    model = onnx_library.load(str(path))
    scales = [x for x in model.graph.initializer if layer in x.name and x.name.endswith("_scale")]
    for scale in scales:
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(-3), scale.name))
    onnx_library.save(model, str(path))
    return bool(scales)


Damage = Callable[[Path], None]


@pytest.fixture
def damaged(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Damage], None]:
    """Apply a function to every int8 graph of the export."""

    def install(damage: Damage) -> None:
        def quantise(source: Path, path: Path, **more: Any) -> None:
            quantise_int8(source, path, **more)
            damage(path)

        for module in (quantization, pipeline):
            monkeypatch.setattr(module, "quantise_int8", quantise)

    return install


def scales_of(graph: Path) -> list[str]:
    return [x.name for x in onnx_library.load(str(graph)).graph.initializer if x.name.endswith("_scale")]


def test_a_layer_with_a_wrong_scale_is_found_and_kept_in_fp32(
    fp32: Path, checkpoint: Path, tmp_path: Path, damaged: Callable[[Damage], None]
) -> None:
    quantise_int8(fp32, tmp_path / "plain.onnx")
    layer = next(name for name in scales_of(tmp_path / "plain.onnx") if "MatMul" in name or "matmul" in name.lower())
    damaged(lambda path: wrong_scale(path, layer) and None)

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "student"), "--max-drop", "3"]) == 0

    found = read_manifest(tmp_path / "student")
    assert found.accuracy["gate"]["worst"]["points"] <= 3
    assert found.accuracy["gate"]["kept_in_fp32"]
    assert found.accuracy["gate"]["kept_in_fp32"][0] in found.graph.quantisation
    assert not found.accuracy["gate"]["search"][0]["worst"].startswith("-")
    assert Student.load(tmp_path / "student").predict("weck mich auf", locale="de-DE").intent


def test_int8_that_fails_with_any_nodes_in_fp32_is_refused(
    checkpoint: Path, tmp_path: Path, damaged: Callable[[Damage], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(path: Path) -> None:
        model = onnx_library.load(str(path))
        norm = next(x for x in model.graph.initializer if "norm" in x.name and x.name.endswith("weight"))
        norm.CopyFrom(numpy_helper.from_array(-3 * numpy_helper.to_array(norm), norm.name))
        onnx_library.save(model, str(path))

    damaged(spoil)
    command = ["--ckpt", str(checkpoint), "--max-drop", "0.5"]

    assert onnx.main([*command, "--out", str(tmp_path / "student")]) == 2

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: int8 loses ")
    assert "in de-DE" in error
    assert list(tmp_path.iterdir()) == []

    assert onnx.main([*command, "--out", str(tmp_path / "student"), "--precision", "auto"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["precision"] == "fp32"


@pytest.mark.parametrize("value", ["-1", "101", "nan", "little"])
def test_an_invalid_budget_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        onnx.parser().parse_args(["--ckpt", "c", "--out", "o", "--max-drop", value])

    assert "allowed: points of percent, 0 to 100" in capsys.readouterr().err
