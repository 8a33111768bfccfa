from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export.graph import OPSET, SESSION, export_fp32
from export.quantization import quantise_int8
from export.text_axis import with_text_axis_only
from service.student.predictor import OUTPUT_OF_HEAD, open_session
from training.models.checkpoint import load_checkpoint

OUTPUTS = list(OUTPUT_OF_HEAD.values())


@pytest.fixture(scope="module")
def with_batch_axis(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 graph like those of older exports: its input is [1, tokens]."""
    path = tmp_path_factory.mktemp("old") / "graph.onnx"
    model = load_checkpoint(checkpoint).model.eval()
    axes = {"input_ids": {1: "tokens"}, "slot_logits": {1: "tokens"}}
    names = {"input_names": ["input_ids"], "output_names": [*OUTPUTS, "features", "last_hidden_state"]}
    with warnings.catch_warnings(action="ignore"):
        ids = torch.zeros(1, 12, dtype=torch.int64)
        torch.onnx.export(model, (ids,), str(path), dynamic_axes=axes, opset_version=OPSET, dynamo=False, **names)
    graph = onnx.load(str(path))
    del graph.graph.output[len(OUTPUTS) :]
    onnx.save(graph, str(path))
    quantise_int8(path, path)
    return path


def test_outputs_stay_the_same_bit_for_bit_at_every_length(with_batch_axis: Path, tmp_path: Path) -> None:
    old = onnx.load(str(with_batch_axis))
    before = old.SerializeToString()

    onnx.save(with_text_axis_only(old), str(tmp_path / "new.onnx"))

    assert old.SerializeToString() == before
    one, other = open_session(with_batch_axis, SESSION), open_session(tmp_path / "new.onnx", SESSION)
    shapes = {x.name: x.shape for x in (*other.get_inputs(), *other.get_outputs())}
    assert {name: len(shape) for name, shape in shapes.items()} == {
        "input_ids": 1,
        "domain_logits": 1,
        "intent_logits": 1,
        "slot_logits": 2,
    }
    rng = np.random.default_rng(0)
    for length in range(1, 65):
        ids = rng.integers(4, 400, size=length)
        expected = one.run(OUTPUTS, {"input_ids": ids[None]})
        for found, wanted in zip(other.run(OUTPUTS, {"input_ids": ids}), expected, strict=True):
            np.testing.assert_array_equal(found, wanted[0])


def test_arithmetic_on_shapes_becomes_constants(with_batch_axis: Path, checkpoint: Path, tmp_path: Path) -> None:
    export_fp32(load_checkpoint(checkpoint).model, tmp_path / "exported.onnx")
    old, exported = onnx.load(str(with_batch_axis)), onnx.load(str(tmp_path / "exported.onnx"))

    def shapes(model: onnx.ModelProto) -> int:
        return sum(node.op_type == "Shape" for node in model.graph.node)

    assert shapes(old) > 2
    assert shapes(with_text_axis_only(old)) == shapes(exported) == 1  # the number of tokens, for the positions
    constants = {x.name for x in exported.graph.initializer}
    constants |= {node.output[0] for node in exported.graph.node if node.op_type == "Constant"}
    assert all(node.input[1] in constants for node in exported.graph.node if node.op_type == "Reshape")


def test_a_graph_without_batch_axis_stays_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    export_fp32(load_checkpoint(checkpoint).model, tmp_path / "graph.onnx")
    graph = onnx.load(str(tmp_path / "graph.onnx"))

    assert with_text_axis_only(graph) == graph


def test_another_input_is_refused() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("ids", "same")]
    node = helper.make_node("Identity", ["ids"], ["same"])
    model = helper.make_model(helper.make_graph([node], "other", values[:1], values[1:]))

    with pytest.raises(ValueError, match=r"the graph takes .*ids.*; allowed: input_ids \[1, tokens\]"):
        with_text_axis_only(model)
