"""Quantisation to int8, and the sensitivity of each node to it.

"Plain" int8 quantises every look-up and every product with weights; the gate (`export.gate`) may keep nodes in fp32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from tqdm import tqdm

from service.student.decoding import FloatArray, softmax
from service.student.predictor import Predictor
from training.models.student import POSITION_BIAS


def quantise_int8(
    source: Path,
    path: Path,
    attention: bool = False,
    keep: Sequence[str] = (),
    only: Sequence[str] | None = None,
    any_cpu: bool = True,
) -> None:
    """Quantise the fp32 export: weights to int8 per channel, activations to uint8 with a scale computed at run time.

    With `any_cpu` the weights of products have seven bits. The sum of two products then fits into 16 bits
    (``2 * 255 * 64 < 2**15``), at which x86-64 CPUs without VNNI saturate.

    `source` must not be optimised: the runtime fuses nodes of the quantised graph better than the quantiser handles
    fused nodes. Products of two activations stay in fp32 unless `attention` is set, as quantising both factors costs
    time; so do position biases, which the runtime looks up when it loads the graph. Nodes in `keep` stay in fp32; with
    `only`, all other nodes do.
    """
    in_fp32 = [*keep, *position_biases(source), *([] if attention else activation_products(source))]
    recipe = AutoQuantizationConfig.avx512_vnni(
        is_static=False,
        per_channel=True,
        nodes_to_quantize=[] if only is None else list(only),
        nodes_to_exclude=in_fp32,
    )
    recipe.reduce_range = any_cpu
    with tempfile.TemporaryDirectory(prefix=".quantising-", dir=path.parent) as scratch:
        ORTQuantizer(source).quantize(recipe, scratch, file_suffix=None)
        Path(scratch, source.name).replace(path)


def quantisable_nodes(source: Path) -> list[str]:
    """The names of the nodes of an fp32 export that `quantise_int8` quantises: look-ups and products with weights."""
    biases = position_biases(source)
    return [name for name in _nodes(source, ("MatMul", "Gather"), with_weights=True) if name not in biases]


def activation_products(source: Path) -> list[str]:
    """The names of the nodes of an fp32 export that multiply two activations: those of attention."""
    return _nodes(source, ("MatMul",), with_weights=False)


def position_biases(source: Path) -> list[str]:
    """The names of the nodes of an fp32 export that look up the biases of relative positions."""
    graph = onnx.load(str(source), load_external_data=False).graph
    tables = f".{POSITION_BIAS}.weight"
    return [node.name for node in graph.node if any(name.endswith(tables) for name in node.input)]


def _nodes(source: Path, operators: Sequence[str], with_weights: bool) -> list[str]:
    graph = onnx.load(str(source), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in graph.node
        if node.op_type in operators and bool(weights.intersection(node.input)) == with_weights
    ]


def by_sensitivity(
    source: Path, open_graph: Callable[[Path], Predictor], texts: Sequence[str], any_cpu: bool = True
) -> list[str]:
    """The quantisable nodes, by how much the probabilities of `texts` change if one is quantised alone, most first."""

    def probabilities(graph: Path) -> list[FloatArray]:
        predictor = open_graph(graph)
        encoded = map(predictor.encoder.encode, texts)
        return [softmax(logits) for found in map(predictor.logits, encoded) for logits in found.values()]

    expected, moved = probabilities(source), {}
    with tempfile.TemporaryDirectory(prefix=".sensitivity-", dir=source.parent) as scratch:
        graph = Path(scratch, source.name)
        for name in tqdm(quantisable_nodes(source), desc="sensitivity", unit="node", leave=False, disable=None):
            quantise_int8(source, graph, only=[name], any_cpu=any_cpu)
            pairs = zip(expected, probabilities(graph), strict=True)
            moved[name] = np.mean([np.abs(a - b).sum(axis=-1).mean() / 2 for a, b in pairs])  # total variation
    return sorted(moved, key=lambda name: -moved[name])
