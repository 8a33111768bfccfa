"""Rejected export variants, kept for the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization import quantize_static as ort_quantise_static

from export.graph import SESSION, activation_products
from service.student.predictor import open_session
from service.student.tokenization import Encoded


class _Sentences(CalibrationDataReader):  # type: ignore[misc]
    """Sentences of piece ids, one at a time."""

    def __init__(self, sentences: Sequence[Sequence[int]]) -> None:
        self._rest: Iterator[Sequence[int]] = iter(sentences)

    def get_next(self) -> dict[str, NDArray[np.int64]] | None:
        """The next input of the graph, None after the last."""
        ids = next(self._rest, None)
        return None if ids is None else {"input_ids": np.array([ids], np.int64)}


def quantise_static(source: Path, path: Path, sentences: Sequence[Sequence[int]], operators: bool) -> Path:
    """An int8 graph whose activations have fixed ranges, those seen on `sentences`: answers can't move with neighbours.

    As quantised operators, or else with a pair of nodes around each product (QDQ), for the runtime to fuse.
    """
    ort_quantise_static(
        source,
        path,
        _Sentences(sentences),
        quant_format=QuantFormat.QOperator if operators else QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=activation_products(source),
    )
    return path


def with_labels_in_graph(source: Path, path: Path) -> Path:
    """A copy of a graph that ends in probabilities and, for slots, in each piece's best tag and its probability."""
    model = onnx.load(str(source))
    graph = model.graph
    outputs = [output.name for output in graph.output]
    del graph.output[:]
    graph.initializer.append(helper.make_tensor("last", TensorProto.INT64, [1], [-1]))
    for name in outputs:
        probabilities = f"{name}_probabilities"
        graph.node.append(helper.make_node("Softmax", [name], [probabilities], axis=-1))
        ends = {probabilities: TensorProto.FLOAT}
        if name == "slot_logits":
            graph.node.append(helper.make_node("ArgMax", [name], ["slot_tags"], axis=-1, keepdims=0))
            graph.node.append(helper.make_node("ReduceMax", [probabilities, "last"], ["slot_confidence"], keepdims=0))
            ends = {"slot_tags": TensorProto.INT64, "slot_confidence": TensorProto.FLOAT}
        graph.output.extend(helper.make_tensor_value_info(end, kind, None) for end, kind in ends.items())
    onnx.save(model, str(path))
    return path


def labels_of(graph: Path) -> Callable[[Encoded], Any]:
    """What reads the labels off a graph of `with_labels_in_graph`."""
    session = open_session(graph, SESSION)
    names = [output.name for output in session.get_outputs()]

    def read(encoded: Encoded) -> None:
        for name, values in zip(names, session.run(names, {"input_ids": np.array([encoded.ids])}), strict=True):
            if name.endswith("_probabilities"):
                values[0].max(), values[0].argmax()

    return read
