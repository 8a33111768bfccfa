"""Quantisation to int8, and the gate that decides which nodes stay in fp32.

"Plain" int8 quantises every look-up and every product with weights. If it loses too much quality, the most sensitive
nodes stay in fp32, as few as a bisection finds.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from tqdm import tqdm

from export.folder import ExportError
from service.student.decoding import FloatArray, softmax
from service.student.predictor import Predictor

log = logging.getLogger(__name__)

GATED = ("domain_accuracy", "intent_accuracy", "slot_f1", "exact_match")
ROUNDING = 1e-9

Scores = Mapping[str, Mapping[str, float]]  # by locale and metric, in percent


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
    time. Nodes in `keep` stay in fp32; with `only`, all other nodes do.
    """
    recipe = AutoQuantizationConfig.avx512_vnni(
        is_static=False,
        per_channel=True,
        nodes_to_quantize=[] if only is None else list(only),
        nodes_to_exclude=[*keep, *([] if attention else activation_products(source))],
    )
    recipe.reduce_range = any_cpu
    with tempfile.TemporaryDirectory(prefix=".quantising-", dir=path.parent) as scratch:
        ORTQuantizer(source).quantize(recipe, scratch, file_suffix=None)
        Path(scratch, source.name).replace(path)


def quantisable_nodes(source: Path) -> list[str]:
    """The names of the nodes of an fp32 export that `quantise_int8` quantises: look-ups and products with weights."""
    return _nodes(source, ("MatMul", "Gather"), with_weights=True)


def activation_products(source: Path) -> list[str]:
    """The names of the nodes of an fp32 export that multiply two activations: those of attention."""
    return _nodes(source, ("MatMul",), with_weights=False)


def _nodes(source: Path, operators: Sequence[str], with_weights: bool) -> list[str]:
    graph = onnx.load(str(source), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in graph.node
        if node.op_type in operators and bool(weights.intersection(node.input)) == with_weights
    ]


@dataclass(frozen=True)
class Loss:
    """The loss of a metric in a locale, in points of percent; negative for a gain."""

    locale: str
    metric: str
    before: float
    after: float

    @property
    def points(self) -> float:
        """Before minus after."""
        return self.before - self.after

    def within(self, max_drop: float) -> bool:
        """Whether the loss is at most `max_drop` points."""
        return self.points <= max_drop + ROUNDING

    def __str__(self) -> str:
        return f"{self.points:.2f} points of {self.metric} in {self.locale} ({self.before:.2f} -> {self.after:.2f})"


def max_loss(before: Scores, after: Scores) -> Loss:
    """The greatest loss of any gated metric in any locale."""
    found = [
        Loss(locale, metric, float(values[metric]), float(after[locale][metric]))
        for locale, values in before.items()
        for metric in GATED
        if metric in values
    ]
    return max(found, key=lambda loss: loss.points)


def quantise_within(
    max_drop: float,
    source: Path,
    target: Path,
    score: Callable[[Path], Scores],
    order: Callable[[], Sequence[str]],
    any_cpu: bool = True,
) -> dict[str, Any]:
    """Write an int8 graph that loses at most `max_drop` points of any gated metric in any locale.

    Args:
        max_drop: In points of percent.
        source: The fp32 graph.
        target: The path of the int8 graph.
        score: Scores a graph on the evaluated data.
        order: Returns the nodes in the order in which they are kept in fp32; called if plain int8 loses too much.
        any_cpu: As for `quantise_int8`.

    Returns:
        The report for the manifest.

    Raises:
        ExportError: no graph passes; the message names metric and locale.
    """
    before = score(source)
    nodes: list[str] = []
    losses: dict[int, Loss] = {}  # by number of nodes in fp32

    def passes(count: int) -> bool:
        quantise_int8(source, target, keep=nodes[:count], any_cpu=any_cpu)
        losses[count] = max_loss(before, score(target))
        log.info("%d nodes in fp32: loses %s", count, losses[count])
        return losses[count].within(max_drop)

    kept = 0
    if not passes(kept):
        log.info("measuring which nodes are the most sensitive")
        nodes += order()
        failed, kept = 0, 1
        while not passes(kept):
            if kept >= len(nodes):
                raise ExportError(
                    f"int8 loses {min(losses.values(), key=lambda loss: loss.points)}; allowed: {max_drop:g}. "
                    f"{len(losses)} graphs were tried, with up to {kept} nodes in fp32; raise --max-drop or use "
                    "--precision fp32"
                )
            failed, kept = kept, min(2 * kept, len(nodes))
        while kept - failed > 1:
            middle = (failed + kept) // 2
            failed, kept = (failed, middle) if passes(middle) else (middle, kept)
        quantise_int8(source, target, keep=nodes[:kept], any_cpu=any_cpu)  # the last trial may have failed
    return {
        "max_drop": max_drop,
        "worst": {**asdict(losses[kept]), "points": round(losses[kept].points, 4)},
        "kept_in_fp32": nodes[:kept],
        "search": [
            {"kept_in_fp32": count, "worst": str(loss), "passes": loss.within(max_drop)}
            for count, loss in losses.items()
        ],
    }


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
