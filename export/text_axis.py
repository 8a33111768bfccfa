"""Rewrite graphs of older exports, which had a batch axis of one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

LENGTHS = (1, 2)  # numbers of tokens at which shapes are evaluated
INPUT = "input_ids"

Values = Mapping[str, NDArray[Any]]  # by name of the tensor


def with_text_axis_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph that takes input_ids [tokens] instead of [1, tokens], and whose outputs have no batch axis.

    Arithmetic on shapes is replaced by constants, as far as it does not depend on the number of tokens. The numbers
    that the graph computes stay the same, bit for bit. A graph without a batch axis is copied unchanged.

    Raises:
        ValueError: the graph has another input.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    if [len(shape) for shape in shapes.values()] == [1]:
        return rewritten
    if shapes != {INPUT: [1, 0]}:
        raise ValueError(f"the graph takes {shapes}; allowed: {INPUT} [1, tokens] or [tokens]")
    _fold_shapes(rewritten)
    _drop_batch_axis(graph)
    onnx.checker.check_model(rewritten)
    return rewritten


def _drop_batch_axis(graph: onnx.GraphProto) -> None:
    """Add the batch axis after the input, and remove it before the outputs."""
    axis = "batch_axis"
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), axis))
    for node in graph.node:
        _rename(node.input, INPUT, f"{INPUT}_batch")
        for output in graph.output:
            _rename(node.input, output.name, f"{output.name}_batch")
            _rename(node.output, output.name, f"{output.name}_batch")
    graph.node.insert(0, helper.make_node("Unsqueeze", [INPUT, axis], [f"{INPUT}_batch"], name="add_batch_axis"))
    for output in graph.output:
        name = f"remove_batch_axis_{output.name}"
        graph.node.append(helper.make_node("Squeeze", [f"{output.name}_batch", axis], [output.name], name=name))
    for value in (*graph.input, *graph.output):
        del value.type.tensor_type.shape.dim[0]
    del graph.value_info[:]  # they have the old shapes


def _rename(names: Any, old: str, new: str) -> None:
    for position, name in enumerate(names):
        if name == old:
            names[position] = new


def _fold_shapes(model: onnx.ModelProto) -> None:
    """Replace what is computed from shapes alone by constants, and remove nodes without use."""
    graph = model.graph
    constants = {x.name for x in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    of_shapes: set[str] = set()
    for node in graph.node:  # in topological order
        inputs = set(filter(None, node.input))
        if node.op_type == "Shape" or (inputs & of_shapes and inputs <= of_shapes | constants):
            of_shapes.update(node.output)
    if not of_shapes:
        return
    one, two = (_evaluate(model, sorted(of_shapes), length) for length in LENGTHS)
    folded = {name: value for name in of_shapes if (value := _constant(one[name], two[name])) is not None}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in folded.items() if -1 not in value)
    for node in graph.node:
        if node.op_type == "Reshape" and (value := folded.get(node.input[1])) is not None and -1 in value:
            node.input[1] = f"{node.input[1]}_constant"
            if node.input[1] not in {x.name for x in graph.initializer}:
                graph.initializer.append(numpy_helper.from_array(value, node.input[1]))
    kept = [n for n in graph.node if not any(-1 not in folded[name] for name in n.output if name in folded)]
    _keep_used(graph, kept)


def _constant(one: NDArray[Any], two: NDArray[Any]) -> NDArray[Any] | None:
    """The constant for a tensor with these values at one and two tokens.

    The dimension that is the number of tokens becomes -1, which only a Reshape understands. None: there is no constant.
    """
    if one.shape != two.shape:
        return None
    if np.array_equal(one, two):
        return one
    tokens = one != two
    if one.ndim == 1 and tokens.sum() == 1 and (int(one[tokens][0]), int(two[tokens][0])) == LENGTHS:
        return np.where(tokens, -1, one)
    return None


def _evaluate(model: onnx.ModelProto, names: list[str], length: int) -> Values:
    """The values of tensors for a text of `length` tokens."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session: Any = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {INPUT: np.zeros((1, length), np.int64)}), strict=True))


def _keep_used(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Keep those of `nodes`, which are in topological order, that an output needs."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [x for x in graph.initializer if x.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
