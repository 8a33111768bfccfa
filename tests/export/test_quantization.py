from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx as onnx_library
import pytest

from export.graph import SESSION, export_fp32
from export.quantization import by_sensitivity, quantisable_nodes, quantise_int8
from service.student.predictor import Predictor, open_session
from training.models.checkpoint import load_checkpoint

TEXTS = ["weck mich um neun uhr", "wie wird das wetter morgen", "spiel musik"]


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "fp32.onnx"
    export_fp32(load_checkpoint(checkpoint).model, path)
    return path


def quantised_nodes(graph: Path, candidates: Sequence[str]) -> set[str]:
    """The candidates that are no longer fp32 nodes of a graph."""
    nodes = {node.name: node for node in onnx_library.load(str(graph)).graph.node}
    weights = {x.name for x in onnx_library.load(str(graph)).graph.initializer if x.data_type == 1}
    return {name for name in candidates if name not in nodes or not weights.intersection(nodes[name].input)}


def test_keep_and_only_select_the_quantised_nodes(fp32: Path, tmp_path: Path) -> None:
    nodes = quantisable_nodes(fp32)
    quantise_int8(fp32, tmp_path / "plain.onnx")
    quantise_int8(fp32, tmp_path / "kept.onnx", keep=nodes[:2])
    quantise_int8(fp32, tmp_path / "only.onnx", only=nodes[2:3])

    assert quantised_nodes(fp32, nodes) == set()
    assert quantised_nodes(tmp_path / "plain.onnx", nodes) == set(nodes)
    assert quantised_nodes(tmp_path / "kept.onnx", nodes) == set(nodes[2:])
    assert quantised_nodes(tmp_path / "only.onnx", nodes) == {nodes[2]}


def test_sensitivity_orders_all_nodes_that_can_be_quantised(fp32: Path, checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)

    def open_graph(path: Path) -> Predictor:
        return Predictor(loaded.labels, loaded.encoder, open_session(path, SESSION))

    nodes = quantisable_nodes(fp32)
    assert {name.split("/")[1] for name in nodes} >= {"token_embeddings", "blocks.0", "domain", "intent", "slots"}
    assert sorted(by_sensitivity(fp32, open_graph, TEXTS)) == sorted(nodes)
